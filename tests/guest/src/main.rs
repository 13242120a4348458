//! The test guest: one small program that does what its command line asks and says how it went.
//!
//! It is a PVH kernel that works in ring 3 (see `entry` for why), so the same file boots under any
//! VMM with PVH. `test=NAME` on the command line chooses; each test prints lines, then `PASS` or
//! `FAIL: reason`, and ends the machine with code 0 or 1.
//!
//! | test | does | options |
//! |---|---|---|
//! | `hello` (default) | says hello | |
//! | `idle` | says `ready`, then halts for ever | |
//! | `spin` | says `ready`, then counts in memory at `counter=` | `counter` |
//! | `beat` | a dot on the serial line every `gap=` million cycles | `gap`, `count` |
//! | `cpuid` | what CPUID answers, leaf by leaf | |
//! | `echo` | sends back what is typed, in capitals, until `q` | |
//! | `end` | ends the machine: power-off, reset, panic device, triple fault | `how` |
//! | `dirty` | writes `pages=` pages over and over, verifying its own writes | `pages`, `rounds` |
//! | `ram` | counts its RAM and uses the end of each part | |
//! | `lost` | touches the end of RAM when a byte is typed | `by=cpu`, `by=device`, `by=disk`, `by=net` |
//! | `pci` | lists the PCI functions | |
//! | `blk` | every request kind on the `disk=`-th disk, data verified | `disk`, `irq=1` |
//! | `blkread` | reads the whole disk and prints a checksum | `disk` |
//! | `port` | sends back what comes on port 1 of a console device, each byte plus one | |
//! | `rng` | reads random bytes | |
//! | `balloon` | gives up pages as the host asks, until `q`; `r` reports free ones | |
//! | `blkbench` | so many transfers, for a benchmark | `disk`, `count`, `depth`, `bytes`, `random`, `write`, `queues=2` |
//! | `net-tx` | sends so many frames | `count`, `bytes`, `depth` |
//! | `net-pairs` | sends so many frames on each of two queue pairs | `count` |
//! | `net-rx` | takes so many frames of the host, in sequence, after the first `warm=` | `count`, `bytes`, `warm` |
//! | `hostile` | what no driver should do, to disk, rng, console, a network card, a balloon, a screen and a keyboard | `seed`, `rounds`, `net=1`, `balloon=1`, `screen=1` |
//! | `ioloop` | disk, rng and serial at once, every answer counted | `disk`, `count`, `depth` |
#![no_std]
#![no_main]

mod balloon;
mod bench;
mod block;
mod boot;
mod console;
mod entry;
mod hostile;
mod ioloop;
mod memory;
mod net;
mod pci;
mod port;
mod runtime;
mod simple;
mod virtio;

use boot::Boot;

#[unsafe(no_mangle)]
extern "C" fn user_main(start_info: u64) -> ! {
    let boot = Boot::read(start_info);
    pci::locate(&boot);
    match boot.option("test").unwrap_or("hello") {
        "hello" => simple::hello(),
        "idle" => simple::idle(),
        "spin" => simple::spin(&boot),
        "beat" => simple::beat(&boot),
        "cpuid" => simple::cpuid(),
        "echo" => simple::echo(),
        "dirty" => simple::dirty(&boot),
        "end" => simple::end(&boot),
        "ram" => simple::ram(&boot),
        "lost" => simple::lost(&boot),
        "pci" => pci::list(),
        "balloon" => balloon::test(&boot),
        "blk" => block::test(&boot),
        "blkbench" => bench::disk(&boot),
        "blkread" => block::checksum(&boot),
        "port" => console::echo(),
        "rng" => simple::rng(),
        "hostile" => hostile::test(&boot),
        "net-tx" => net::transmit(&boot),
        "net-pairs" => net::pairs(&boot),
        "net-rx" => net::receive(&boot),
        "ioloop" => ioloop::test(&boot),
        other => panic!("no test is called {other}"),
    }
    say!("PASS");
    port::exit(0)
}

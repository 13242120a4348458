//! `vm dump`: a core that debuggers read, of a guest that goes on, ends or starts again.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use tests::skip_unless;
use tests::world::World;

/// A header of the core: kind, offset, physical address, length.
fn program_headers(core: &File) -> Vec<(u32, u64, u64, u64)> {
    let mut head = [0; 64];
    core.read_exact_at(&mut head, 0).expect("a header");
    assert_eq!(head[..6], [0x7f, b'E', b'L', b'F', 2, 1]);
    let count = u64::from(u16::from_le_bytes([head[56], head[57]]));
    (0..count)
        .map(|at| {
            let mut entry = [0; 56];
            core.read_exact_at(&mut entry, 64 + 56 * at)
                .expect("a program header");
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            (word(0) as u32, word(8), word(24), word(32))
        })
        .collect()
}

/// Bytes of guest memory.
fn memory(core: &File, address: u64, length: usize) -> Vec<u8> {
    let loads = program_headers(core);
    let load = loads
        .iter()
        .find(|(kind, _, start, size)| *kind == 1 && (*start..start + size).contains(&address));
    let (_, offset, start, _) = load.expect("in RAM");
    let mut bytes = vec![0; length];
    core.read_exact_at(&mut bytes, offset + address - start)
        .expect("memory");
    bytes
}

/// Where the guest counts, by its command line.
const COUNTER: u64 = 40 << 20;

fn counter(path: &Path) -> u64 {
    let core = File::open(path).expect("the core");
    u64::from_le_bytes(memory(&core, COUNTER, 8).try_into().unwrap())
}

#[test]
fn a_dump_holds_memory_and_registers_and_the_guest_goes_on() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("busy", &format!("test=spin counter={COUNTER}"));
    world.ok(&["start", "busy"]);
    let mut console = tests::console::Console::open(&world, "busy");
    console.wait_for("ready");
    let (first, second) = (world.path("first.core"), world.path("second.core"));
    let said = world.ok(&[
        "dump",
        "busy",
        &first.display().to_string(),
        "--memory-only",
    ]);
    assert!(said.starts_with("Domain 'busy' dumped to "), "{said}");
    let file = File::open(&first).expect("the core");
    let metadata = file.metadata().expect("its facts");
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert!(
        metadata.blocks() * 512 < metadata.len() / 2,
        "zeroes are holes"
    );
    let headers = program_headers(&file);
    assert_eq!(headers[0].0, 4, "a note comes first");
    let ram: u64 = headers[1..].iter().map(|(_, _, _, length)| length).sum();
    assert_eq!(ram, 64 << 20);
    // The note's first vCPU was in ring 3, where the test guest counts.
    let mut registers = [0; 27 * 8];
    file.read_exact_at(&mut registers, headers[0].1 + 20 + 112)
        .expect("registers");
    let word = |at: usize| u64::from_le_bytes(registers[8 * at..8 * at + 8].try_into().unwrap());
    assert_eq!(word(17) & 3, 3, "cs");
    assert!(
        (1 << 20..64 << 20).contains(&word(16)),
        "rip {:#x}",
        word(16)
    );
    if let Ok(output) = Command::new("readelf").args(["-hln"]).arg(&first).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{text}"
        );
        for fact in ["CORE (Core file)", "NT_PRSTATUS", "LOAD"] {
            assert!(text.contains(fact), "{fact}: {text}");
        }
    } else {
        println!("skipped: no readelf for a second opinion");
    }

    assert_eq!(world.ok(&["-q", "domstate", "busy"]), "running\n");
    let before = counter(&first);
    world.ok(&["dump", "busy", &second.display().to_string()]);
    assert!(counter(&second) > before, "it went on after the first");
    let errors = world.fails(&["dump", "busy", &second.display().to_string(), "--live"]);
    assert!(errors.contains("not built"), "{errors}");
    let errors = world.fails(&["dump", "busy", "/nowhere/at/all"]);
    assert!(errors.contains("/nowhere/at/all"), "{errors}");

    // A paused guest stays paused.
    world.ok(&["suspend", "busy"]);
    world.ok(&["dump", "busy", &second.display().to_string()]);
    assert_eq!(world.ok(&["-q", "domstate", "busy"]), "paused\n");
    world.ok(&["resume", "busy"]);
    world.ok(&["dump", "busy", &second.display().to_string(), "--reset"]);
    console.wait_for("ready");
    world.ok(&["dump", "busy", &second.display().to_string(), "--crash"]);
    let state = world.ok(&["-q", "domstate", "busy", "--reason"]);
    assert_eq!(state, "shut off (crashed)\n");
    let left = std::fs::read_dir(world.path("first.core").parent().expect("a folder"));
    let parts = left.expect("a folder").flatten();
    assert!(
        !parts
            .into_iter()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
    );
}

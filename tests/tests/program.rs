//! The `vmm` program before it has a machine: how it is linked, and what it does to the process that
//! it is given. Needs no KVM.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::{program, skip_unless};

/// The values of `N`-byte little-endian numbers in an ELF file.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let part: [u8; N] = bytes[at..at + N].try_into().unwrap();
    part.iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// Types and flags of the program headers (ELF-64 Object File Format 1.5, figure 6).
fn program_headers(elf: &[u8]) -> Vec<(u64, u64)> {
    let start = usize::try_from(number::<8>(elf, 32)).unwrap();
    let size = usize::try_from(number::<2>(elf, 54)).unwrap();
    let count = usize::try_from(number::<2>(elf, 56)).unwrap();
    let headers = (0..count).map(|index| start + index * size);
    headers
        .map(|at| (number::<4>(elf, at), number::<4>(elf, at + 4)))
        .collect()
}

fn has_static_c_library() -> bool {
    let output = Command::new("cc").arg("-print-file-name=libc.a").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
}

/// A dynamic linker takes a fifth of the time to the guest's first byte.
#[test]
fn the_program_needs_no_dynamic_linker_and_may_lie_anywhere() {
    const TYPE_DYNAMIC: u64 = 3;
    const INTERPRETER: u64 = 3;
    const STACK: u64 = 0x6474_e551;
    const READ_ONLY_LATER: u64 = 0x6474_e552;
    const EXECUTE: u64 = 1;
    skip_unless!(has_static_c_library(), "there is no libc.a");
    let elf = fs::read(program::vmm().unwrap()).unwrap();
    assert_eq!(number::<2>(&elf, 16), TYPE_DYNAMIC, "position-independent");
    let headers = program_headers(&elf);
    let find = |kind| headers.iter().find(|(found, _)| *found == kind);
    assert_eq!(find(INTERPRETER), None);
    assert!(find(READ_ONLY_LATER).is_some(), "{headers:x?}");
    let (_, stack) = find(STACK).expect("it says what its stack may do");
    assert_eq!(stack & EXECUTE, 0);
}

/// The manager may have closed them. The next file that is opened must not get their numbers, because
/// messages are written there.
#[test]
fn standard_streams_that_are_closed_become_nothing() {
    const SCRIPT: &str = "exec \"$0\" --spec-fd 8 --after-fd 9 8</dev/zero 9<&0 0<&- 1>&- 2>&-";
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT])
        .arg(program::vmm().unwrap())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let gate = child.stdin.take();
    let fds = format!("/proc/{}/fd", child.id());
    let nothing = |number| {
        fs::read_link(format!("{fds}/{number}")).is_ok_and(|link| link == Path::new("/dev/null"))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(0..3).all(nothing) {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        assert!(Instant::now() < deadline, "standard streams stay closed");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A reader that goes away is an error, not the end: bit 12 is SIGPIPE.
    let ignores_broken_pipes = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
        mask >> 12 & 1 == 1
    };
    while !ignores_broken_pipes() {
        assert!(Instant::now() < deadline, "SIGPIPE would end it");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(gate);
    // Zeros are no spec.
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

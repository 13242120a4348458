//! Guest RAM on this machine's KVM: how much of it there is, what is behind it, and what happens when
//! nothing is behind it any more.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use tests::machine::{Builder, Machine};
use tests::{have_kvm, skip_unless};
use vmm_api::console::Attach;
use vmm_api::end::EndReason;
use vmm_api::spec::{MemoryBacking, MemorySpec};

const NO_KVM: &str = "/dev/kvm cannot be opened";

/// What is not RAM below 1 MiB: the upper part of the legacy area.
const LEGACY: u64 = 0x10_0000 - 0x9_fc00;

#[test]
fn the_guest_counts_its_ram_also_above_four_gib() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    for mib in [128, 2816, 2820, 6144] {
        let mut machine = Builder::guest("test=ram").memory(mib).start().unwrap();
        machine.expect(&format!("ram {} bytes", (mib << 20) - LEGACY));
        machine.expect_pass();
    }
}

#[test]
fn locked_and_allocated_memory_is_there_before_the_guest_runs() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let machine = Builder::guest("test=idle").memory(64).adjust(|spec| {
        spec.memory.locked = true;
        spec.memory.prealloc = true;
        spec.memory.mergeable = false;
    });
    let mut machine = machine.start().unwrap();
    machine.expect("ready");
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib: u64 = locked
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    assert!(kib >= 64 << 10, "{kib} KiB are locked");
    machine.kill().unwrap();
}

#[test]
fn huge_pages_that_are_not_there_are_missed_at_the_start() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    skip_unless!(
        free.as_deref().is_ok_and(|free| free.trim() == "0"),
        "this host has free huge pages of 2 MiB, or cannot have any"
    );
    let mut machine = Builder::guest("test=hello")
        .adjust(|spec| {
            spec.memory = MemorySpec {
                backing: MemoryBacking::Hugetlb { page_size: 2 << 20 },
                ..MemorySpec::anonymous(64 << 20)
            };
        })
        .start()
        .unwrap();
    assert_eq!(machine.wait().unwrap(), 1);
    let end = machine.end().expect("last words");
    assert_eq!(end.reason, EndReason::Failed);
    assert!(end.detail.contains("huge pages"), "{}", end.detail);
}

/// The file behind a machine's shared memory.
fn memory_file(machine: &Machine) -> PathBuf {
    let folder = format!("/proc/{}/fd", machine.pid());
    let is_ram = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("guest-ram"))
    };
    let entries = fs::read_dir(folder).unwrap();
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(is_ram).expect("a memfd")
}

/// A machine whose guest waits for a byte before it touches the end of its RAM, which is cut off.
fn cut_short(line: &str) -> Machine {
    let machine = Builder::guest(line).rng().adjust(|spec| {
        spec.memory.backing = MemoryBacking::SharedMemfd;
    });
    let mut machine = machine.start().unwrap();
    machine.expect("ready");
    let file = File::options().write(true).open(memory_file(&machine));
    file.unwrap().set_len(64 << 20).unwrap();
    let wish = Attach {
        write: true,
        force: true,
    };
    let (_, mut console) = machine.console(wish).unwrap();
    console.write_all(b"x").unwrap();
    machine
}

#[test]
fn a_worker_that_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = cut_short("test=lost by=device");
    assert_eq!(machine.wait().unwrap(), 1);
    let end = machine.end().expect("last words");
    assert_eq!(end.reason, EndReason::Failed);
    assert!(
        end.detail.contains("guest memory at 0x7") && end.detail.contains("cut short"),
        "{}",
        end.detail
    );
}

#[test]
fn a_vcpu_that_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = cut_short("test=lost by=cpu");
    machine.wait().unwrap();
    let end = machine.end().expect("last words");
    assert!(
        matches!(end.reason, EndReason::Crashed | EndReason::Failed),
        "{end:?}"
    );
    assert!(end.detail.contains("memory"), "{}", end.detail);
}

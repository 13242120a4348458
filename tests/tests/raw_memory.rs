//! Guest RAM on this machine's KVM: how much of it there is, what is behind it, and what happens when
//! nothing is behind it any more.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tests::machine::{Builder, Disk, Machine};
use tests::tap;
use tests::world::World;
use tests::{have_kvm, skip_unless};
use vmm_api::console::Attach;
use vmm_api::end::EndReason;
use vmm_api::spec::{IoEngine, MemoryBacking, MemorySpec};

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
    let kib = status(machine.pid(), "VmLck");
    assert!(kib >= 64 << 10, "{kib} KiB are locked");
    machine.kill().unwrap();
}

/// The host's pool of huge pages, which tests take in turn.
static POOL: Mutex<()> = Mutex::new(());

/// Huge pages of 2 MiB that are in the host's pool for one test, and leave it again.
struct Pool {
    before: String,
    _turn: MutexGuard<'static, ()>,
}

impl Pool {
    const SIZE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    fn number(path: &str) -> u64 {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// `pages` more than there are; says so when there cannot be.
    fn with(pages: u64) -> Option<Self> {
        Self::reserve(pages)
            .inspect_err(|why| println!("skipped: no huge pages can be set aside: {why}"))
            .ok()
    }

    /// `pages` more than there are, all of them free; or why not.
    fn reserve(pages: u64) -> Result<Self, String> {
        let turn = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::read_to_string(Self::SIZE).map_err(|error| error.to_string())?;
        let pool = Self {
            before,
            _turn: turn,
        };
        let wanted = Self::number(Self::SIZE) + pages;
        fs::write(Self::SIZE, wanted.to_string()).map_err(|error| error.to_string())?;
        let free = Self::number(Self::FREE);
        if free < pages {
            return Err(format!("{free} huge pages are free, {pages} are needed"));
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A pool that stays too large is the host's memory, and no reason to fail.
        drop(fs::write(Self::SIZE, &self.before));
    }
}

/// A number of KiB in the process's status.
fn status(pid: impl std::fmt::Display, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = value.and_then(|text| text.trim_matches([':', '\t', ' ']).strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {field} in {text}"))
}

/// Defines a guest of 64 MiB that waits, with these elements about its memory.
fn define_backed(world: &World, elements: &str) {
    let kernel = tests::guest::build().expect("the test guest");
    world.define_xml(&format!(
        "<domain type='kvm'><name>backed</name><memory unit='MiB'>64</memory>{elements}\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=idle</cmdline></os><devices><serial type='pty'/></devices></domain>",
        kernel.display()
    ));
}

/// Starts such a guest, all of whose memory is allocated; its process.
fn backed_by(world: &World, backing: &str) -> i32 {
    let now = "<allocation mode='immediate'/>";
    define_backed(
        world,
        &format!("<memoryBacking>{backing}{now}</memoryBacking>"),
    );
    world.ok(&["start", "backed"]);
    world.pid("backed")
}

#[test]
fn a_definition_puts_a_guest_into_huge_pages() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let Some(pool) = Pool::with(40) else { return };
    let free = Pool::number(Pool::FREE);
    let world = World::new();
    let pid = backed_by(&world, "<hugepages/>");
    assert_eq!(status(pid, "HugetlbPages"), 64 << 10);
    assert_eq!(free - Pool::number(Pool::FREE), 32, "of 2 MiB each");
    drop(world);
    drop(pool);
}

#[test]
fn a_definition_locks_a_guest_into_memory() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let world = World::new();
    let locked = status(backed_by(&world, "<locked/>"), "VmLck");
    assert!(locked >= 64 << 10, "{locked} KiB are locked");
}

#[test]
fn a_definition_chooses_the_nodes_of_the_host() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    skip_unless!(
        fs::exists("/proc/self/numa_maps").is_ok_and(|found| found),
        "this kernel knows no NUMA nodes"
    );
    let world = World::new();
    let tune = |mode: &str, nodes: &str| {
        let memory = format!("<memory mode='{mode}' nodeset='{nodes}'/>");
        define_backed(&world, &format!("<numatune>{memory}</numatune>"));
    };
    for (mode, shown) in [
        ("strict", "bind:0"),
        ("preferred", "prefer:0"),
        ("interleave", "interleave:0"),
    ] {
        tune(mode, "0");
        world.ok(&["start", "backed"]);
        let maps = fs::read_to_string(format!("/proc/{}/numa_maps", world.pid("backed")));
        let maps = maps.expect("maps of the process");
        assert!(maps.lines().any(|line| line.contains(shown)), "{maps}");
        world.ok(&["destroy", "backed"]);
    }
    tune("strict", "0,1023");
    let errors = world.fails(&["start", "backed"]);
    assert!(errors.contains("no memory in node 1023"), "{errors}");
}

#[test]
fn a_guest_in_huge_pages_has_all_of_its_ram() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let Some(pool) = Pool::with(64) else { return };
    let machine = Builder::guest("test=ram").adjust(|spec| {
        spec.memory = MemorySpec {
            backing: MemoryBacking::Hugetlb { page_size: 2 << 20 },
            ..MemorySpec::anonymous(128 << 20)
        };
    });
    let mut machine = machine.start().unwrap();
    machine.expect(&format!("ram {} bytes", (128 << 20) - LEGACY));
    machine.expect_pass();
    drop(machine);
    drop(pool);
}

#[test]
fn huge_pages_that_are_not_there_are_missed_at_the_start() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let _turn = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let free = fs::read_to_string(Pool::FREE);
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
fn cut_short(machine: Builder) -> Machine {
    let machine = machine.adjust(|spec| {
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

/// The machine ends, and says which memory it misses.
fn misses_memory(mut machine: Machine) {
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
fn a_worker_that_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    misses_memory(cut_short(Builder::guest("test=lost by=device").rng()));
}

#[test]
fn a_disk_whose_kernel_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    for disk in [
        Disk::raw(&path),
        // Its bytes come by another call of the kernel.
        Disk::raw(&path).adjust(|spec| spec.io = IoEngine::Threads),
    ] {
        misses_memory(cut_short(Builder::guest("test=lost by=disk").disk(disk)));
    }
}

#[test]
fn a_card_whose_kernel_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let work = || {
        let machine = Builder::guest("test=lost by=net").tap(tap::NAME);
        misses_memory(cut_short(machine));
    };
    if let Err(error) = tap::in_own_network(work) {
        println!("skipped: no network with a tap can be made: {error}");
    }
}

#[test]
fn a_vcpu_that_misses_memory_stops_the_guest_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = cut_short(Builder::guest("test=lost by=cpu"));
    machine.wait().unwrap();
    let end = machine.end().expect("last words");
    assert!(
        matches!(end.reason, EndReason::Crashed | EndReason::Failed),
        "{end:?}"
    );
    assert!(end.detail.contains("memory"), "{}", end.detail);
}

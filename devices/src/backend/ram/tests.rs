//! RAM of each kind loses what was given back, and nothing else.

use super::*;
use crate::testing::dirty;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use std::os::unix::fs::FileExt;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset};

const SIZE: usize = 8 << 20;
const PAGES: u64 = SIZE as u64 / PAGE;

/// RAM at 0 of the kind that file and flags make.
fn ram(file: Option<File>, flags: i32) -> Option<(GuestMemoryHandle, Ram)> {
    let bitmap = AtomicBitmap::new(SIZE, std::num::NonZeroUsize::new(4096).expect("a page"));
    let mut builder = MmapRegionBuilder::new_with_bitmap(SIZE, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    if let Some(file) = file {
        builder = builder.with_file_offset(FileOffset::new(file, 0));
    }
    let region = GuestRegion::new(builder.build().ok()?, GuestAddress(0))?;
    let handle = GuestMemoryHandle::new(GuestMemory::from_regions(vec![region]).ok()?);
    Some((handle.clone(), Ram::new(handle)))
}

fn memfd(flags: MemfdFlags) -> Option<File> {
    let fd = memfd_create("ram", flags | MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&fd, SIZE as u64).ok()?;
    Some(File::from(fd))
}

fn fill(memory: &GuestMemoryHandle) {
    for page in 0..PAGES {
        let address = GuestAddress(page * PAGE);
        let written = memory.memory().write_obj(page + 1, address);
        written.expect("in RAM");
    }
    for region in memory.memory().iter() {
        region.get_mmap().bitmap().reset();
    }
}

/// The pages that read as zero.
fn gone(memory: &GuestMemoryHandle) -> Vec<u64> {
    let read = |page: &u64| -> u64 {
        let address = GuestAddress(page * PAGE);
        memory.memory().read_obj(address).expect("in RAM")
    };
    let kept = |page: &u64| read(page) == page + 1;
    let pages: Vec<u64> = (0..PAGES).filter(|page| !kept(page)).collect();
    assert!(pages.iter().all(|page| read(page) == 0));
    pages
}

fn dirty_pages(memory: &GuestMemoryHandle) -> Vec<u64> {
    let pages = dirty(&memory.memory()).into_iter();
    pages.map(|(_, page)| page as u64).collect()
}

#[test]
fn private_pages_read_as_zero_and_are_dirty() {
    let (memory, ram) = ram(None, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).expect("RAM");
    fill(&memory);
    assert_eq!(ram.size(), SIZE as u64);
    // Neither end is a whole page.
    let given = ram.give_back(2 * PAGE - 1, 3 * PAGE + 2);
    assert_eq!((given.bytes, given.outside), (3 * PAGE, false));
    assert!(given.error.is_none());
    assert_eq!(gone(&memory), [2, 3, 4]);
    assert_eq!(dirty_pages(&memory), [2, 3, 4]);
}

#[test]
fn a_shared_file_gets_a_hole() {
    let file = memfd(MemfdFlags::empty()).expect("a memfd");
    let (memory, ram) = ram(file.try_clone().ok(), libc::MAP_SHARED).expect("RAM");
    fill(&memory);
    let before = fstat(&file).expect("stat").st_blocks;
    let given = ram.give_back(16 * PAGE, 512 * PAGE);
    assert_eq!(given.bytes, 512 * PAGE);
    let after = fstat(&file).expect("stat").st_blocks;
    assert_eq!(before - after, 512 * 8, "blocks of 512 bytes");
    let expected: Vec<u64> = (16..528).collect();
    assert_eq!(gone(&memory), expected);
    assert_eq!(dirty_pages(&memory), expected);
}

#[test]
fn locked_pages_of_a_snapshot_stay() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(SIZE as u64).expect("a length");
    let (memory, ram) = ram(Some(file), libc::MAP_PRIVATE).expect("RAM");
    fill(&memory);
    for region in memory.memory().iter() {
        let (at, size) = (region.get_mmap().as_ptr(), region.get_mmap().size());
        // SAFETY: it changes nothing but whether these pages, which are mapped, stay in memory.
        if unsafe { libc::mlock(at.cast(), size) } != 0 {
            println!("skipped: {size} bytes may not be locked here");
            return;
        }
    }
    assert_eq!(ram.give_back(16 * PAGE, 600 * PAGE).bytes, 0);
    assert_eq!(gone(&memory), [] as [u64; 0]);
}

#[test]
fn a_snapshots_file_is_kept_and_its_long_ranges_are_replaced() {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(SIZE as u64).expect("a length");
    for page in 0..PAGES {
        let bytes = (page + 1).to_le_bytes();
        file.write_all_at(&bytes, page * PAGE).expect("written");
    }
    let (memory, ram) = ram(file.try_clone().ok(), libc::MAP_PRIVATE).expect("RAM");
    assert_eq!(ram.give_back(8 * PAGE, 4 * PAGE).bytes, 0);
    assert_eq!(gone(&memory), [] as [u64; 0]);
    assert_eq!(dirty_pages(&memory), [] as [u64; 0]);
    // Pages that were written and pages that were not.
    memory
        .memory()
        .write_obj(21u64, GuestAddress(20 * PAGE))
        .expect("in RAM");
    assert_eq!(ram.give_back(16 * PAGE, 600 * PAGE).bytes, 600 * PAGE);
    let expected: Vec<u64> = (16..616).collect();
    assert_eq!(gone(&memory), expected);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 16 * PAGE).expect("read");
    assert_eq!(u64::from_le_bytes(word), 17);
    // What a guest writes there later stays.
    memory
        .memory()
        .write_obj(7u64, GuestAddress(16 * PAGE))
        .expect("in RAM");
    let found: u64 = memory
        .memory()
        .read_obj(GuestAddress(16 * PAGE))
        .expect("in RAM");
    assert_eq!(found, 7);
}

/// Huge pages of 2 MiB that are in the host's pool for the test, where it may set them aside.
struct Pool(Option<String>);

impl Pool {
    const SIZE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn with(pages: usize) -> Self {
        let before = std::fs::read_to_string(Self::SIZE).unwrap_or_default();
        let there: usize = before.trim().parse().unwrap_or(0);
        let set = std::fs::write(Self::SIZE, (there + pages).to_string());
        Self(set.ok().map(|()| before))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A pool that stays too large is the host's memory, and no reason to fail.
            drop(std::fs::write(Self::SIZE, before));
        }
    }
}

#[test]
fn of_huge_pages_only_whole_ones_go() {
    let _pool = Pool::with(SIZE.div_ceil(2 << 20));
    let made = memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        .and_then(|file| ram(Some(file), libc::MAP_SHARED));
    let Some((memory, ram)) = made else {
        println!("skipped: this host has no huge pages of 2 MiB to spare");
        return;
    };
    fill(&memory);
    assert_eq!(ram.give_back(PAGE, 1000 * PAGE).bytes, 0);
    assert_eq!(ram.give_back(PAGE, 1100 * PAGE).bytes, 512 * PAGE);
    let expected: Vec<u64> = (512..1024).collect();
    assert_eq!(gone(&memory), expected);
    assert_eq!(dirty_pages(&memory), expected);
}

#[test]
fn what_is_no_ram_is_left_out_and_told() {
    let ranges = [(GuestAddress(0), SIZE), (GuestAddress(1 << 32), SIZE)];
    let handle = GuestMemoryHandle::new(GuestMemory::from_ranges(&ranges).expect("RAM"));
    let ram = Ram::new(handle.clone());
    let given = ram.give_back(SIZE as u64 - PAGE, 1 << 32);
    assert!(given.outside);
    assert_eq!(given.bytes, SIZE as u64);
    for (start, len) in [
        (1 << 40, 1 << 20),
        (u64::MAX - 10, 100),
        (0, 0),
        (u64::MAX, u64::MAX),
    ] {
        assert_eq!(ram.give_back(start, len).bytes, 0, "{start:#x} {len:#x}");
    }
}

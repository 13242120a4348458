//! Guest RAM of each kind, on this host.

use super::*;
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_api::spec::MemoryBacking;

const SIZE: u64 = 4 << 20;

fn spec(backing: MemoryBacking) -> MemorySpec {
    MemorySpec {
        backing,
        ..MemorySpec::anonymous(SIZE)
    }
}

#[test]
fn fresh_ram_is_zero_and_writable() {
    for backing in [MemoryBacking::Anonymous, MemoryBacking::SharedMemfd] {
        let memory = build(&spec(backing)).expect("4 MiB");
        let region = memory.iter().next().expect("one region");
        assert_eq!(region.len(), SIZE);
        assert!(is_zero(region, 0, 4 << 20), "{backing:?}");
        memory
            .write_obj(7u8, GuestAddress(SIZE - 1))
            .expect("inside");
        assert!(!is_zero(region, SIZE - 4096, 4096));
        assert!(is_zero(region, 0, 4096));
    }
}

#[test]
fn huge_pages_of_guest_and_host_coincide() {
    // Mappings of odd sizes push the next ones off every boundary on kernels that do not align them.
    let (mut odd, mut fillers) = (Vec::new(), Vec::new());
    for pages in [1, 3, 70, 511] {
        let filler = vm_memory::MmapRegion::<()>::new(pages * 4096).expect("a few pages");
        for backing in [MemoryBacking::Anonymous, MemoryBacking::SharedMemfd] {
            // Not a multiple of 2 MiB, which newer kernels would align by themselves.
            let mut spec = spec(backing);
            spec.size += 4096;
            let memory = build(&spec).expect("4 MiB");
            for region in memory.iter() {
                let host = region.as_ptr() as u64;
                assert_eq!(host % (2 << 20), region.start_addr().0 % (2 << 20));
            }
            odd.push(memory);
        }
        fillers.push(filler);
    }
}

#[test]
fn huge_pages_that_the_host_has_not_are_an_error_that_says_so() {
    let mut spec = spec(MemoryBacking::Hugetlb { page_size: 1 << 30 });
    spec.size = 1 << 40;
    let error = build(&spec).expect_err("a terabyte of huge pages");
    assert!(error.to_string().contains("huge pages"), "{error}");
}

#[test]
fn populated_and_locked_ram_is_resident() {
    let mut spec = spec(MemoryBacking::Anonymous);
    spec.prealloc = true;
    spec.locked = true;
    match build(&spec) {
        Ok(memory) => assert_eq!(memory.num_regions(), 1),
        Err(error @ MemoryError::Advise { what: "locked", .. }) => {
            println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn container() -> Arc<File> {
    let file = tempfile::tempfile().expect("temporary file");
    file.set_len(8192 + SIZE).expect("sparse");
    file.write_all_at(b"saved", 8192 + 12288)
        .expect("inside the file");
    Arc::new(file)
}

fn read5(memory: &GuestMemory, address: u64) -> [u8; 5] {
    let mut bytes = [0; 5];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .expect("inside");
    bytes
}

#[test]
fn saved_ram_comes_back_and_the_container_is_never_written() {
    for backing in [MemoryBacking::Anonymous, MemoryBacking::SharedMemfd] {
        let container = container();
        let saved = [SavedRegion {
            span: 0..SIZE,
            offset: 8192,
        }];
        let memory = restore(&spec(backing), &container, &saved).expect("fits");
        assert_eq!(&read5(&memory, 12288), b"saved", "{backing:?}");
        assert_eq!(read5(&memory, 0), [0; 5]);
        memory
            .write_slice(b"other", GuestAddress(12288))
            .expect("inside");
        let mut on_disk = [0; 5];
        container
            .read_exact_at(&mut on_disk, 8192 + 12288)
            .expect("inside the file");
        assert_eq!(&on_disk, b"saved");
    }
}

#[test]
fn saved_ram_of_another_machine_is_refused() {
    let saved = [SavedRegion {
        span: 0..SIZE * 2,
        offset: 8192,
    }];
    let error =
        restore(&spec(MemoryBacking::Anonymous), &container(), &saved).expect_err("another size");
    assert!(matches!(error, MemoryError::Saved(_)), "{error}");
}

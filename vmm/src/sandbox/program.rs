//! The program's own code and constants in memory.
//!
//! Most of them are needed once, to read the spec and to make the machine, and what a running guest
//! needs is a small part. They come from the program's file, a private copy is never made, so they can be
//! let go of at any time: what is needed again is mapped again.

use std::ffi::{c_int, c_void};

/// Unmaps all pages of the program's code and constants. What runs on comes back page by page, out of
/// the host's page cache.
pub fn let_go_of_program() {
    // SAFETY: the function below keeps to the contract of the call, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of), std::ptr::null_mut()) };
}

/// The first object is the program itself, and the only one that is asked for.
unsafe extern "C" fn let_go_of(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: the caller passes valid information about an object.
    let info = unsafe { &*info };
    // SAFETY: the object has that many headers, which stay as long as it does.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers {
        let mapped = header.p_type == libc::PT_LOAD;
        if mapped && header.p_flags & libc::PF_W == 0 {
            unmap(info.dlpi_addr + header.p_vaddr, header.p_memsz);
        }
    }
    1
}

fn unmap(start: u64, len: u64) {
    const PAGE: u64 = 4096;
    // Only whole pages: another segment may begin in the last one.
    let first = start.next_multiple_of(PAGE);
    let end = (start + len) & !(PAGE - 1);
    let len = usize::try_from(end.saturating_sub(first)).unwrap_or(0);
    let first = usize::try_from(first).unwrap_or(0);
    let start: *mut c_void = std::ptr::with_exposed_provenance_mut(first);
    // SAFETY: pages of the program alone that are mapped from its file and cannot be written: they are
    // the file's, whether mapped or not. Refused, it changes nothing.
    unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt;

    const LEN: usize = 512 << 10;
    /// Constants that nobody else of this program reads.
    static CONSTANTS: [u8; LEN] = [VALUE; LEN];
    const VALUE: u8 = 0xa5;

    /// How many pages of the constants are mapped (pagemap, bit 63).
    fn mapped() -> usize {
        let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
        let first = CONSTANTS.as_ptr().addr() / 4096;
        let is_mapped = |page: &usize| {
            let mut entry = [0; 8];
            let at = u64::try_from(page * 8).expect("an offset");
            pagemap.read_exact_at(&mut entry, at).expect("an entry");
            u64::from_le_bytes(entry) >> 63 == 1
        };
        (first..first + LEN / 4096).filter(is_mapped).count()
    }

    fn read_all() -> bool {
        black_box(&CONSTANTS).iter().all(|byte| *byte == VALUE)
    }

    #[test]
    fn constants_go_and_come_back_as_they_were() {
        assert!(read_all());
        let before = mapped();
        assert!(before > LEN / 4096 / 2, "{before}");
        let_go_of_program();
        // Neighbours that are needed bring some of them back.
        let after = mapped();
        assert!(after < before / 2, "{after} of {before} stay");
        assert!(read_all());
    }
}

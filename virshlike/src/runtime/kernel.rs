//! A quick look at a kernel before a process is started for it: what it is, not whether it works.

use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Checks that a file begins like a bzImage or an x86-64 ELF.
///
/// # Errors
/// What it looks like instead.
pub fn check(file: &File, path: &Path) -> Result<()> {
    let mut head = vec![0; 0x210];
    let length = file.read_at(&mut head, 0).unwrap_or(0);
    head.truncate(length);
    let at = |offset: usize, bytes: &[u8]| {
        head.get(offset..)
            .is_some_and(|rest| rest.starts_with(bytes))
    };
    // Linux Documentation/arch/x86/boot.rst: 0xaa55 at 0x1fe, "HdrS" at 0x202.
    if at(0x1fe, &[0x55, 0xaa]) && at(0x202, b"HdrS") {
        return Ok(());
    }
    if at(0, b"\x7fELF") {
        // ELF64, little endian, machine 62.
        if at(4, &[2, 1]) && at(18, &[62, 0]) {
            return Ok(());
        }
        return Err(refuse(path, "it is an ELF file, but not for x86-64"));
    }
    let looks = if head.is_empty() {
        "it is empty"
    } else if at(0, b"MZ") {
        "it is an EFI program without a Linux boot header"
    } else if at(0, &[0x1f, 0x8b]) || at(0, &[0xfd, b'7', b'z']) || at(0, &[0x28, 0xb5, 0x2f, 0xfd])
    {
        "it is a compressed file, perhaps an initrd"
    } else if at(0, b"0707") {
        "it is a cpio archive, perhaps an initrd"
    } else if at(0, b"QFI\xfb") {
        "it is a qcow2 image"
    } else {
        "it begins like none"
    };
    Err(refuse(path, looks))
}

fn refuse(path: &Path, looks: &str) -> Error {
    Error::new(Kind::Definition, format!("{} is no kernel", path.display()))
        .cause(looks)
        .hint("<kernel> takes a bzImage (Debian's /boot/vmlinuz-*) or an x86-64 ELF vmlinux")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_bytes(bytes: &[u8]) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, bytes).unwrap();
        check(&File::open(&path).unwrap(), &path)
    }

    #[test]
    fn kernels_are_known_by_their_headers() {
        let mut image = vec![0u8; 0x300];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        check_bytes(&image).unwrap();
        let mut elf = vec![0u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        check_bytes(&elf).unwrap();
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"070701", "cpio"),
            (b"QFI\xfb\x00\x00\x00\x03", "qcow2"),
            (b"#!/bin/sh\n", "none"),
            (b"\x7fELF\x01\x01", "not for x86-64"),
        ] {
            let error = check_bytes(bytes).unwrap_err();
            assert!(error.causes[0].contains(word), "{word}: {error}");
        }
    }
}

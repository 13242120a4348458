//! The test framework: what scenarios share. It talks to the product through its public faces only:
//! the `vmm` program with its spec and control socket, and the `vm` command.
//!
//! | module | gives |
//! |---|---|
//! | [`boot_sector`] | a disk that firmware boots |
//! | [`tiny_bios`] | firmware that resets the machine in every way |
//! | [`guest`] | the freestanding test guest, built on demand |
//! | [`program`] | the built programs of this workspace |
//! | [`machine`] | a `vmm` process with a spec, its serial line, control socket and end |
//! | [`linux`] | stock kernels, and a shell in one |
//! | [`serial`] | waiting for what a guest says |
//! | [`tap`] | a network of its own with a tap in it, and frames for it |
//! | [`world`] | a store of its own with the real `vm` |
//! | [`console`] | `vm console` of a guest with a shell |
//! | [`golden`] | expected output in files, compared or updated |
//! | [`skip_unless!`] | leaving a test out, saying why |
#![deny(unsafe_code)]

pub mod boot_sector;
pub mod console;
pub mod golden;
pub mod guest;
pub mod linux;
pub mod machine;
pub mod program;
pub mod serial;
pub mod tap;
pub mod tiny_bios;
pub mod world;

/// Leaves the test with a line that says why, unless the condition holds.
#[macro_export]
macro_rules! skip_unless {
    ($condition:expr, $($reason:tt)*) => {
        if !$condition {
            eprintln!("skipped: {}", format_args!($($reason)*));
            return;
        }
    };
}

/// Whether this process may use KVM.
pub fn have_kvm() -> bool {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

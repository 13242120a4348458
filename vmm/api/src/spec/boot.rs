//! What a guest starts from: a kernel that the host hands over, or firmware that looks for a disk.

use super::{Fd, NamedFd};
use serde::{Deserialize, Serialize};

/// A firmware image is a whole number of these: 64 KiB.
pub const FIRMWARE_STEP: u64 = 64 << 10;
/// The largest firmware image: 16 MiB, which end at 4 GiB.
pub const MAX_FIRMWARE: u64 = 16 << 20;
/// The longest that a boot menu or a failed boot may wait: 65,535 ms, as QEMU takes it.
pub const MAX_BOOT_WAIT: u32 = 0xffff;

/// What the guest starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum BootSpec {
    /// A kernel given by the host: bzImage, ELF vmlinux or any PVH ELF.
    Kernel {
        /// The kernel file.
        kernel: NamedFd,
        /// The initial RAM disk, if any.
        #[serde(default)]
        initrd: Option<NamedFd>,
        /// The kernel command line, at most 2047 bytes.
        #[serde(default)]
        cmdline: String,
    },
    /// Firmware, which boots the first device that can be booted, in the order of the devices'
    /// `boot_index`.
    Firmware(FirmwareSpec),
}

impl BootSpec {
    /// The kernel command line; empty with firmware.
    pub fn cmdline(&self) -> &str {
        match self {
            Self::Kernel { cmdline, .. } => cmdline,
            Self::Firmware(_) => "",
        }
    }

    /// Every descriptor that is named here.
    pub(super) fn fds(&self) -> Vec<Fd> {
        match self {
            Self::Kernel {
                kernel,
                initrd,
                cmdline: _,
            } => {
                let initrd = initrd.as_ref().map(|initrd| initrd.fd);
                std::iter::once(kernel.fd).chain(initrd).collect()
            }
            Self::Firmware(FirmwareSpec {
                rom,
                menu: _,
                serial: _,
                reboot_timeout: _,
            }) => vec![rom.fd],
        }
    }
}

/// PC firmware in ROM, such as SeaBIOS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareSpec {
    /// The image: a regular file of 64 KiB to 16 MiB, a multiple of [`FIRMWARE_STEP`]. It is read at
    /// every cold start; a restored machine takes it from its saved state.
    pub rom: NamedFd,
    /// Milliseconds that the boot menu waits for a key, at most [`MAX_BOOT_WAIT`]; no menu when absent.
    #[serde(default)]
    pub menu: Option<u32>,
    /// The firmware shows its messages on COM1 too, and takes keys from there.
    #[serde(default)]
    pub serial: bool,
    /// Milliseconds after which a guest that found nothing to boot starts again, at most
    /// [`MAX_BOOT_WAIT`]; it stays where it is when absent.
    #[serde(default)]
    pub reboot_timeout: Option<u32>,
}

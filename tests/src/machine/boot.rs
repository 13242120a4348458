//! What a machine starts from: a kernel, or firmware that looks for a disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use vmm_api::spec::{BootSpec, DebugConsoleSpec, DeviceKind, DeviceSpec, FirmwareSpec};

use super::opened::Opened;
use super::{Builder, Machine};
use crate::guest;

/// Stock SeaBIOS, of Debian's package `seabios`.
pub const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
/// Where the firmware's messages are in the machine's folder.
const MESSAGES: &str = "firmware.log";

impl Builder {
    /// Firmware instead of a kernel, with its console on COM1.
    pub fn firmware(rom: &Path) -> Self {
        Self {
            firmware: Some(rom.into()),
            ..Self::guest("")
        }
    }

    pub(super) fn boot(&self, opened: &mut Opened) -> io::Result<BootSpec> {
        if let Some(rom) = &self.firmware {
            return Ok(BootSpec::Firmware(FirmwareSpec {
                rom: opened.named(rom)?,
                menu: None,
                serial: true,
                reboot_timeout: None,
            }));
        }
        let kernel = self.kernel.clone().map_or_else(guest::build, Ok)?;
        let initrd = self.initrd.as_deref();
        Ok(BootSpec::Kernel {
            kernel: opened.named(&kernel)?,
            initrd: initrd.map(|path| opened.named(path)).transpose()?,
            cmdline: self.cmdline.clone(),
        })
    }

    /// Where firmware says what it does.
    pub(super) fn debug_console(
        &self,
        folder: &Path,
        opened: &mut Opened,
    ) -> io::Result<Option<DeviceSpec>> {
        if self.firmware.is_none() {
            return Ok(None);
        }
        let output = opened.keep(File::create(folder.join(MESSAGES))?);
        Ok(Some(DeviceSpec {
            id: "debug-console0".into(),
            address: None,
            kind: DeviceKind::DebugConsole(DebugConsoleSpec { output }),
        }))
    }
}

impl Machine {
    /// What the firmware said it does.
    pub fn firmware_messages(&self) -> String {
        let bytes = fs::read(self.folder().join(MESSAGES)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

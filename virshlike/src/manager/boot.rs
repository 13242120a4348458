//! What a machine starts from: the kernel of its definition, or the host's SeaBIOS with the order in
//! which it tries devices.

use super::machine::Place;
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::files::{self, Access, Descriptors};
use crate::runtime::kernel;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vmm_api::spec::{BootSpec, DeviceKind, DeviceSpec, FIRMWARE_STEP, FirmwareSpec};

/// Where packages put SeaBIOS for machines like ours.
const PLACES: [&str; 2] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
];

/// The largest BIOS: what is below 4 GiB for one.
const MAX_BIOS: u64 = 256 << 10;

/// What to do where there is none.
pub(super) const INSTALL: &str = "install SeaBIOS: apt install seabios";

/// The host's SeaBIOS: the file that `stated` names, else the first one that is there.
pub(super) fn bios(stated: Option<&Path>) -> Option<PathBuf> {
    match stated {
        Some(path) => path.exists().then(|| path.to_path_buf()),
        None => PLACES
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists()),
    }
}

/// What the machine of a definition starts from.
///
/// # Errors
/// A file that is missing, cannot be opened, or is not what it should be.
pub(super) fn source(
    model: &model::Domain,
    bios: Option<&Path>,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<BootSpec> {
    if model.os.kernel.is_none() {
        return firmware(model, bios, place, descriptors).map(BootSpec::Firmware);
    }
    let path = Path::new(model.os.kernel.as_deref().unwrap_or_default());
    let file = files::open(path, Access::Read, "the kernel")?;
    kernel::check(&file, path)?;
    let kernel = descriptors.keep_named(file, path);
    let mut initrd = None;
    if let Some(path) = &model.os.initrd {
        let path = Path::new(path);
        let file = files::open(path, Access::Read, "the initrd")?;
        initrd = Some(descriptors.keep_named(file, path));
    }
    Ok(BootSpec::Kernel {
        kernel,
        initrd,
        cmdline: model.os.cmdline.clone().unwrap_or_default(),
    })
}

fn firmware(
    model: &model::Domain,
    bios: Option<&Path>,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<FirmwareSpec> {
    let os = &model.os;
    let path = match &os.loader {
        Some(path) => PathBuf::from(path),
        None => self::bios(bios).ok_or_else(|| {
            let asks = "the definition names no <kernel>, and its disks are booted by a BIOS";
            Error::new(Kind::Host, "there is no SeaBIOS on this host")
                .cause(place.line(os.at, asks))
                .hint(INSTALL)
                .hint("or name another BIOS: <loader type='rom'>/path</loader>")
        })?,
    };
    let file = files::open(&path, Access::Read, "the firmware")?;
    check(&file, &path)?;
    let has_port = model.serials.iter().any(|serial| serial.port == 0);
    Ok(FirmwareSpec {
        rom: descriptors.keep_named(file, &path),
        menu: os.boot_menu,
        // A virtio graphics card has no text mode: nothing else could show the BIOS.
        serial: os.use_serial.unwrap_or(has_port),
        reboot_timeout: os.reboot_timeout,
    })
}

/// Checks that a file can be a firmware image.
fn check(file: &File, path: &Path) -> Result<()> {
    let refuse = |why: String| {
        Err(
            Error::new(Kind::Definition, format!("{} is no firmware", path.display()))
                .cause(why)
                .hint("<loader type='rom'> takes the image of a BIOS, such as /usr/share/seabios/bios-256k.bin"),
        )
    };
    let Ok(metadata) = file.metadata() else {
        return refuse("its size cannot be told".into());
    };
    let size = metadata.size();
    if !metadata.is_file() {
        return refuse("it is no regular file".into());
    }
    if size == 0 || !size.is_multiple_of(FIRMWARE_STEP) || size > MAX_BIOS {
        return refuse(format!(
            "it has {size} bytes; a BIOS has a whole number of {} KiB, at most {} KiB",
            FIRMWARE_STEP >> 10,
            MAX_BIOS >> 10
        ));
    }
    Ok(())
}

/// Gives devices their places in the order that firmware tries.
pub(super) fn set_order(model: &model::Domain, devices: &mut [DeviceSpec]) {
    let indices = model.boot_indices();
    for device in devices {
        let index = indices.get(device.id.as_str()).copied();
        match &mut device.kind {
            DeviceKind::VirtioBlk(disk) => disk.boot_index = index,
            DeviceKind::VirtioNet(card) => card.boot_index = index,
            _ => {}
        }
    }
}

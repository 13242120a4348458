//! `<disk>`.

use super::devices::{alias, boot_order, pci_address};
use crate::model::device::{BackingImage, Disk, DiskBus, DiskDevice, DiskSource};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::Element;
use vmm_api::spec::{
    CacheMode, DetectZeroes, DiscardMode, ErrorPolicy, ImageFormat, IoEngine, IoLimits,
    LIMIT_NAMES, MAX_RATE,
};

/// virtio 1.3 §5.2.6.1: the length of a block device's serial.
const MAX_SERIAL: usize = 20;

/// Longest backing chain; QEMU and libvirt stop at 200 as well.
const MAX_CHAIN: usize = 200;

pub(super) fn disk(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Disk> {
    let device = match element.value("device").unwrap_or("disk") {
        "cdrom" => DiskDevice::Cdrom,
        "floppy" => DiskDevice::Floppy,
        "lun" => DiskDevice::Lun,
        _ => DiskDevice::Disk,
    };
    let target = target(element, findings);
    let source = source(element, device, findings);
    let driver = Driver::read(element.child("driver"), findings);
    let bus = target.as_ref().map(|target| bus(element, target));
    let (target, bus) = (target?, bus?);
    Some(Disk {
        at: element.position(),
        alias: alias(element, || default_alias(&target, bus)),
        device,
        source,
        backing: backing_chain(element, findings),
        format: driver.format.unwrap_or(ImageFormat::Raw),
        format_stated: driver.format.is_some(),
        cache: driver.cache,
        io: driver.io,
        discard: driver.discard,
        detect_zeroes: driver.detect_zeroes,
        error_policy: driver.error_policy,
        rerror_policy: driver.rerror_policy,
        queues: driver.queues,
        iothreads: iothreads(element.child("driver")),
        queue_size: driver.queue_size,
        target,
        bus,
        bus_stated: element
            .child("target")
            .is_some_and(|target| target.attribute("bus").is_some()),
        readonly: device == DiskDevice::Cdrom || element.child("readonly").is_some(),
        shareable: element.child("shareable").is_some(),
        serial: serial(element, bus, findings),
        boot_order: boot_order(element, findings),
        limits: limits(element, findings),
        address: pci_address(element, findings),
    })
}

/// `<iotune>`: each number, and sense in all of them together.
fn limits(element: Element<'_>, findings: &mut Findings<'_>) -> IoLimits {
    let mut limits = IoLimits::default();
    let Some(iotune) = element.child("iotune") else {
        return limits;
    };
    for name in LIMIT_NAMES {
        let Some(child) = iotune.child(name) else {
            continue;
        };
        match (value::unsigned(child.text().trim()), limits.number(name)) {
            (Some(value), Some(number)) => *number = value,
            _ => findings.error_with_hint(
                child.text_position(),
                format!("'{}' is no value for <{name}>", child.text().trim()),
                format!("it takes 0 (no limit) to {MAX_RATE}"),
            ),
        }
    }
    if let Err(what) = limits.check() {
        findings.error(iotune.position(), what);
    }
    limits
}

/// The threads that a `<driver>` names; one that is no number has been refused by the tables.
fn iothreads(driver: Option<Element<'_>>) -> Vec<u32> {
    let Some(driver) = driver else {
        return Vec::new();
    };
    let listed = driver
        .child("iothreads")
        .into_iter()
        .flat_map(|list| list.children_named("iothread"))
        .filter_map(|iothread| iothread.value("id"));
    let stated = driver.value("iothread").into_iter().chain(listed);
    stated.filter_map(value::unsigned32).collect()
}

fn target(element: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let dev = element
        .child("target")
        .and_then(|target| target.attribute("dev"));
    let Some(dev) = dev else {
        findings.error_with_hint(
            element.child("target").unwrap_or(element).position(),
            "the disk has no <target>: it does not say what it is called in the guest's order",
            "add <target dev='vda' bus='virtio'/>",
        );
        return None;
    };
    if disk_index(dev.value()).is_none() {
        findings.error_with_hint(
            dev.value_position(),
            format!("'{}' is no name of a disk", dev.value()),
            "names are vda, vdb, ... for virtio",
        );
        return None;
    }
    Some(dev.value().to_string())
}

/// The number behind the prefix of a disk's name: 0 for `vda`, 26 for `vdaa`.
pub(super) fn disk_index(name: &str) -> Option<u32> {
    let letters = ["vd", "sd", "hd", "fd", "xvd", "ubd", "nvme"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    // A trailing number is a partition; libvirt takes it for the same disk.
    let letters = letters.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || letters.len() > 4 {
        return None;
    }
    let mut index: u32 = 0;
    for letter in letters.bytes() {
        if !letter.is_ascii_lowercase() {
            return None;
        }
        index = index * 26 + u32::from(letter - b'a') + 1;
    }
    index.checked_sub(1)
}

pub(super) fn bus(element: Element<'_>, target: &str) -> DiskBus {
    let bus = element
        .child("target")
        .and_then(|target| target.value("bus"));
    match bus {
        Some("virtio") => DiskBus::Virtio,
        Some("scsi") => DiskBus::Scsi,
        Some("ide") => DiskBus::Ide,
        Some("sata") => DiskBus::Sata,
        Some("usb") => DiskBus::Usb,
        Some("fdc") => DiskBus::Fdc,
        Some(_) => DiskBus::Other,
        // As libvirt infers it, which reads a floppy's device too.
        None if element.value("device") == Some("floppy") => DiskBus::Fdc,
        None => match target.get(..2) {
            Some("vd") => DiskBus::Virtio,
            Some("sd") => DiskBus::Scsi,
            Some("hd") => DiskBus::Ide,
            Some("fd") => DiskBus::Fdc,
            _ => DiskBus::Other,
        },
    }
}

fn default_alias(target: &str, bus: DiskBus) -> String {
    let index = disk_index(target).unwrap_or(0);
    match bus {
        DiskBus::Virtio => format!("virtio-disk{index}"),
        DiskBus::Scsi => format!("scsi0-0-0-{index}"),
        DiskBus::Ide => format!("ide0-{}-{}", index / 2, index % 2),
        DiskBus::Sata => format!("sata0-0-{index}"),
        DiskBus::Usb => format!("usb-disk{index}"),
        DiskBus::Fdc => format!("fdc0-0-{index}"),
        DiskBus::Other => format!("disk-{target}"),
    }
}

fn source(
    element: Element<'_>,
    device: DiskDevice,
    findings: &mut Findings<'_>,
) -> Option<DiskSource> {
    // libvirt reads a disk without a type as a file.
    let kind = element.value("type").unwrap_or("file");
    let source = element.child("source");
    let (name, wrap): (&str, fn(String) -> DiskSource) = match kind {
        "file" => ("file", DiskSource::File),
        "block" => ("dev", DiskSource::Block),
        other => return Some(DiskSource::Other(other.to_string())),
    };
    let attribute = source.and_then(|source| source.attribute(name));
    match attribute {
        Some(path) if !path.value().is_empty() => {
            if !path.value().starts_with('/') {
                findings.error_with_hint(
                    path.value_position(),
                    format!("'{}' is no absolute path", path.value()),
                    "a definition is used from anywhere; write the path from / on",
                );
            }
            Some(wrap(path.value().to_string()))
        }
        _ if matches!(device, DiskDevice::Cdrom | DiskDevice::Floppy) => None,
        // A misspelt attribute of <source> is why.
        _ if source.is_some_and(|source| findings.told_in(source)) => None,
        _ => {
            findings.error_with_hint(
                source.unwrap_or(element).position(),
                format!("the disk of type '{kind}' does not say where its data is"),
                format!("add <source {name}='/path'/>"),
            );
            None
        }
    }
}

fn backing_chain(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Vec<BackingImage>> {
    let mut chain = Vec::new();
    let mut next = element.child("backingStore")?;
    loop {
        let Some(kind) = next.value("type") else {
            return Some(chain);
        };
        let source = next.child("source");
        let path = |name: &str| {
            source
                .and_then(|source| source.value(name))
                .map(str::to_string)
        };
        let image = match kind {
            "file" => path("file").map(DiskSource::File),
            "block" => path("dev").map(DiskSource::Block),
            other => Some(DiskSource::Other(other.to_string())),
        };
        let Some(image) = image else {
            findings.error(
                next.position(),
                format!("<backingStore type='{kind}'> does not say where its data is"),
            );
            return Some(chain);
        };
        if chain.len() >= MAX_CHAIN {
            findings.error(
                next.position(),
                format!("more than {MAX_CHAIN} images in a chain"),
            );
            return Some(chain);
        }
        let format = next.child("format").and_then(|format| format.value("type"));
        chain.push(BackingImage {
            source: image,
            format: format.and_then(image_format).unwrap_or(ImageFormat::Raw),
        });
        match next.child("backingStore") {
            Some(below) => next = below,
            None => return Some(chain),
        }
    }
}

fn image_format(text: &str) -> Option<ImageFormat> {
    match text {
        "raw" => Some(ImageFormat::Raw),
        "qcow2" => Some(ImageFormat::Qcow2),
        _ => None,
    }
}

fn serial(element: Element<'_>, bus: DiskBus, findings: &mut Findings<'_>) -> Option<String> {
    let serial = element.child("serial")?;
    let text = serial.text().trim();
    if bus == DiskBus::Virtio && text.len() > MAX_SERIAL {
        findings.error_with_hint(
            serial.text_position(),
            format!("the serial number has {} bytes", text.len()),
            format!("a virtio disk has room for {MAX_SERIAL}"),
        );
    }
    (!text.is_empty()).then(|| text.to_string())
}

/// `<driver>`; the tables have refused the words that are none.
#[derive(Default)]
struct Driver {
    format: Option<ImageFormat>,
    cache: Option<CacheMode>,
    io: IoEngine,
    discard: Option<DiscardMode>,
    detect_zeroes: Option<DetectZeroes>,
    error_policy: Option<ErrorPolicy>,
    rerror_policy: Option<ErrorPolicy>,
    queues: Option<u16>,
    queue_size: Option<u16>,
}

impl Driver {
    fn read(element: Option<Element<'_>>, findings: &mut Findings<'_>) -> Self {
        let Some(driver) = element else {
            return Self::default();
        };
        let queues = findings.parsed(driver, "queues", "a number from 1 to 256", |text| {
            value::unsigned32(text)
                .filter(|queues| (1..=256).contains(queues))
                .and_then(|queues| queues.try_into().ok())
        });
        let queue_size = findings.parsed(
            driver,
            "queue_size",
            "a power of two from 2 to 1024",
            |text| {
                value::unsigned32(text)
                    .filter(|size| size.is_power_of_two() && (2..=1024).contains(size))
                    .and_then(|size| size.try_into().ok())
            },
        );
        Self {
            format: driver.value("type").and_then(image_format),
            cache: driver.value("cache").and_then(cache),
            io: match driver.value("io") {
                Some("io_uring") => IoEngine::IoUring,
                Some("threads") => IoEngine::Threads,
                _ => IoEngine::Auto,
            },
            discard: driver.value("discard").map(|discard| match discard {
                "ignore" => DiscardMode::Ignore,
                _ => DiscardMode::Unmap,
            }),
            detect_zeroes: driver.value("detect_zeroes").map(|mode| match mode {
                "on" => DetectZeroes::On,
                "unmap" => DetectZeroes::Unmap,
                _ => DetectZeroes::Off,
            }),
            error_policy: driver.value("error_policy").and_then(error_policy),
            rerror_policy: driver.value("rerror_policy").and_then(error_policy),
            queues,
            queue_size,
        }
    }
}

fn cache(text: &str) -> Option<CacheMode> {
    Some(match text {
        "none" => CacheMode::None,
        "writeback" => CacheMode::Writeback,
        "writethrough" => CacheMode::Writethrough,
        "directsync" => CacheMode::Directsync,
        "unsafe" => CacheMode::Unsafe,
        _ => return None,
    })
}

fn error_policy(text: &str) -> Option<ErrorPolicy> {
    Some(match text {
        "stop" => ErrorPolicy::Stop,
        "report" => ErrorPolicy::Report,
        "ignore" => ErrorPolicy::Ignore,
        "enospace" => ErrorPolicy::Enospace,
        _ => return None,
    })
}

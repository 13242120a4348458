//! Channels and consoles on ports of virtio-serial controllers.

use super::devices::{alias, backend};
use crate::model::device::{Channel, CharBackend, PortPlace, VirtioConsole};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::Element;
use vmm_api::spec::MAX_CONSOLE_PORTS;

/// Whether a `<channel>` or `<console>` sits on a port of a virtio-serial controller. A SPICE client's
/// channel gets none: there is nobody who could be behind it.
pub(in crate::model) fn is_on_virtio(device: Element<'_>) -> bool {
    if device.value("type") == Some("spicevmc") {
        return false;
    }
    let target = device
        .child("target")
        .and_then(|target| target.value("type"));
    match device.name() {
        "channel" => matches!(target, None | Some("virtio")),
        "console" => target == Some("virtio"),
        _ => false,
    }
}

/// The port that a device says it sits on; number 0 of a channel is libvirt's word for any.
pub(in crate::model) fn place(device: Element<'_>) -> PortPlace {
    let Some(address) = device.child("address") else {
        return PortPlace::default();
    };
    let number = |name: &str| address.value(name).and_then(value::any_base);
    let port = number("port")
        .filter(|port| *port > 0 || device.name() == "console")
        .and_then(|port| u16::try_from(port).ok());
    let controller = number("controller").and_then(|index| u32::try_from(index).ok());
    PortPlace {
        controller: controller.unwrap_or(0),
        port,
    }
}

fn check(element: Element<'_>, backend: &CharBackend, findings: &mut Findings<'_>) {
    let place = place(element);
    if let (Some(port), Some(address)) = (place.port, element.child("address"))
        && port >= MAX_CONSOLE_PORTS
    {
        findings.error(
            address.position(),
            format!(
                "port {port}; a controller has ports 0 to {}",
                MAX_CONSOLE_PORTS - 1
            ),
        );
    }
    let source = element.child("source");
    if let (CharBackend::UnixListen(path), Some(source)) = (backend, source) {
        if !matches!(source.value("mode"), None | Some("bind")) {
            findings.keep_with_hint(
                source.position(),
                format!(
                    "<{}> connects to a socket; only mode='bind' is built",
                    element.name()
                ),
                "write mode='bind' and let the other program connect",
            );
        }
        if let Some(path) = path
            && !path.starts_with('/')
        {
            findings.error(
                source.position(),
                format!("the socket '{path}' is no absolute path"),
            );
        }
    }
}

pub(super) fn channel(
    index: usize,
    element: Element<'_>,
    findings: &mut Findings<'_>,
) -> Option<Channel> {
    if !is_on_virtio(element) {
        return None;
    }
    let backend = backend(element);
    check(element, &backend, findings);
    Some(Channel {
        at: element.position(),
        alias: alias(element, || format!("channel{index}")),
        backend,
        name: element
            .child("target")
            .and_then(|target| target.value("name"))
            .map(str::to_string),
        place: place(element),
    })
}

pub(super) fn console(
    index: usize,
    element: Element<'_>,
    findings: &mut Findings<'_>,
) -> Option<VirtioConsole> {
    if !is_on_virtio(element) {
        return None;
    }
    let backend = backend(element);
    check(element, &backend, findings);
    Some(VirtioConsole {
        at: element.position(),
        alias: alias(element, || format!("console{index}")),
        backend,
        place: place(element),
    })
}

//! `<graphics>`, `<video>` and `<input>`: which of them a machine has, and how.

use super::devices::{alias, pci_address};
use crate::model::device::{Graphics, GraphicsListen, Input, Video};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::Element;
use vmm_api::spec::{MAX_RESOLUTION, MAX_VIDEO_MEMORY, MIN_RESOLUTION, SharePolicy};

/// Where a display listens when nobody says it.
pub(in crate::model) const LOOPBACK: &str = "127.0.0.1";
/// Letters of a password that VNC looks at.
const PASSWORD: usize = 8;

/// A display.
pub(super) fn graphics(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Graphics> {
    let Some(kind) = element.value("type") else {
        findings.error_with_hint(
            element.position(),
            "<graphics> has no type",
            "write type='vnc'",
        );
        return None;
    };
    let mut port = |name: &str| {
        findings.parsed(element, name, "-1 or a port number", |text| match text {
            "-1" => Some(None),
            text => value::unsigned32(text)
                .and_then(|port| u16::try_from(port).ok())
                .map(Some),
        })
    };
    let websocket = port("websocket").filter(|port| *port != Some(0));
    let port = port("port")
        .flatten()
        .filter(|port| *port != 0 && element.value("autoport") != Some("yes"));
    let password_until = findings.parsed(
        element,
        "passwdValidTo",
        "a time in UTC, such as 2030-12-31T23:59:59",
        utc_seconds,
    );
    let share = match element.value("sharePolicy") {
        Some("force-shared") => SharePolicy::ForceShared,
        Some("ignore") => SharePolicy::Ignore,
        _ => SharePolicy::AllowExclusive,
    };
    Some(Graphics {
        at: element.position(),
        kind: kind.to_string(),
        port,
        websocket,
        listens: listens(element),
        password: element.value("passwd").map(str::to_string),
        password_until,
        share,
    })
}

fn utc_seconds(text: &str) -> Option<u64> {
    let time: jiff::civil::DateTime = text.parse().ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(time.timestamp().as_second()).ok()
}

/// Where it listens: its `<listen>` elements, else its attributes, else on the loopback address.
fn listens(graphics: Element<'_>) -> Vec<GraphicsListen> {
    let text = |element: Element<'_>, name: &str| element.value(name).map(str::to_string);
    let address = |address: Option<String>| {
        GraphicsListen::Address(address.unwrap_or_else(|| LOOPBACK.into()))
    };
    let listen = |listen: Element<'_>| match listen.value("type") {
        Some("socket") => {
            GraphicsListen::Socket(text(listen, "socket").or_else(|| text(graphics, "socket")))
        }
        Some("none") => GraphicsListen::None,
        Some("network") => GraphicsListen::Network,
        _ => address(text(listen, "address").or_else(|| text(graphics, "listen"))),
    };
    let found: Vec<_> = graphics.children_named("listen").map(listen).collect();
    match (found.is_empty(), text(graphics, "socket")) {
        (false, _) => found,
        (true, Some(path)) => vec![GraphicsListen::Socket(Some(path))],
        (true, None) => vec![address(text(graphics, "listen"))],
    }
}

/// A video card.
pub(super) fn video(index: usize, element: Element<'_>, findings: &mut Findings<'_>) -> Video {
    let model = element.child("model");
    let resolution = model.and_then(|model| model.child("resolution"));
    let mut side = |name: &str| {
        let expected = format!("{MIN_RESOLUTION} to {MAX_RESOLUTION} pixels");
        findings.parsed(resolution?, name, &expected, |text| {
            value::unsigned32(text).filter(|n| (MIN_RESOLUTION..=MAX_RESOLUTION).contains(n))
        })
    };
    let resolution = side("x").zip(side("y"));
    let memory = model.and_then(|model| {
        let expected = format!("1024 to {} KiB", MAX_VIDEO_MEMORY / 1024);
        findings.parsed(model, "vram", &expected, |text| {
            let kib = value::unsigned32(text)?;
            // Other cards count in other ways, down to nothing.
            (model.value("type") != Some("virtio")
                || (1024..=MAX_VIDEO_MEMORY / 1024).contains(&u64::from(kib)))
            .then_some(kib)
        })
    });
    Video {
        at: element.position(),
        alias: alias(element, || format!("video{index}")),
        model: model
            .and_then(|model| model.value("type"))
            .unwrap_or("default")
            .to_string(),
        resolution,
        memory_kib: memory.filter(|_| model.and_then(|m| m.value("type")) == Some("virtio")),
        address: pci_address(element, findings),
    }
}

/// An input device.
pub(super) fn input(
    index: usize,
    element: Element<'_>,
    findings: &mut Findings<'_>,
) -> Option<Input> {
    let Some(kind) = element.value("type") else {
        findings.error_with_hint(
            element.position(),
            "<input> has no type",
            "write type='keyboard'",
        );
        return None;
    };
    let bus = element.value("bus");
    Some(Input {
        at: element.position(),
        alias: alias(element, || format!("input{index}")),
        kind: kind.to_string(),
        bus: bus.map(str::to_string),
        // Of the others the address is not one of PCI.
        address: match bus {
            Some("virtio") => pci_address(element, findings),
            _ => None,
        },
    })
}

/// Sense in a display.
pub(super) fn check(graphics: Element<'_>, findings: &mut Findings<'_>) {
    if graphics.value("type") != Some("vnc") {
        return;
    }
    for listen in graphics.children_named("listen") {
        if listen.value("type") == Some("network") {
            findings.keep_with_hint(
                listen.position(),
                "listening on the address of a virtual network is not built yet",
                "write <listen type='address' address='127.0.0.1'/>",
            );
        }
    }
    let open = listens(graphics).into_iter().any(|listen| {
        matches!(&listen, GraphicsListen::Address(address)
            if address.parse().is_ok_and(|ip: std::net::IpAddr| !ip.is_loopback()))
    });
    let password = graphics.value("passwd");
    let has_websocket = !matches!(graphics.value("websocket"), None | Some("0"));
    let on_address = |listen: &GraphicsListen| matches!(listen, GraphicsListen::Address(_));
    if has_websocket && !listens(graphics).iter().any(on_address) {
        findings.keep_with_hint(
            graphics.position(),
            "websocket= needs an address to listen on",
            "write <listen type='address' address='127.0.0.1'/>",
        );
    } else if has_websocket && password.is_none() {
        findings.warn(
            graphics.position(),
            "every web page that a browser on this host shows can use the display: it has a \
             websocket and no passwd",
        );
    }
    if open && password.is_none() {
        findings.warn(
            graphics.position(),
            "whoever reaches this host can use the display: it listens on more than the loopback \
             address and has no passwd",
        );
    }
    if password.is_some_and(|password| password.len() > PASSWORD) {
        findings.warn(
            graphics.position(),
            format!("VNC looks at the first {PASSWORD} bytes of passwd only"),
        );
    }
    if graphics.value("powerControl") == Some("yes") {
        findings.warn(
            graphics.position(),
            "powerControl='yes' of <graphics> has no effect: viewers have no power button",
        );
    }
}

/// Sense in several displays and video cards.
pub(super) fn check_all(devices: Element<'_>, findings: &mut Findings<'_>) {
    let servers = devices
        .children_named("graphics")
        .filter(|graphics| graphics.value("type") == Some("vnc"));
    for second in servers.skip(1) {
        findings.keep_with_hint(
            second.position(),
            "a second VNC server is not built yet",
            "give the one several <listen> elements",
        );
    }
    let cards = || devices.children_named("video");
    for second in cards().skip(1) {
        findings.keep_with_hint(
            second.position(),
            "a second video card is not built yet",
            "remove it",
        );
    }
    for model in cards().filter_map(|video| video.child("model")) {
        if model.value("heads").is_some_and(|heads| heads != "1") {
            findings.warn(
                model.position(),
                "heads= of <model> has no effect: the card has one output",
            );
        }
        let acceleration = model.child("acceleration");
        if acceleration.is_some_and(|a| a.value("accel3d") == Some("yes")) {
            findings.warn(
                model.position(),
                "accel3d='yes' of <acceleration> has no effect: nothing is rendered on the host",
            );
        }
    }
}

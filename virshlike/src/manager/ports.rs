//! virtio-serial controllers of a definition as devices of a machine, and what the guest does with
//! their ports.

use super::Manager;
use crate::error::{Error, Kind, Result};
use crate::model::{self, CharBackend, Controller, PortPlace};
use crate::runtime::Guest;
use std::collections::BTreeMap;
use vmm_api::spec::{ConsoleSpec, DeviceKind, DeviceSpec, Fd, PortSpec, PortStream};

/// The device of a controller. What is behind its ports is opened later.
pub(super) fn device(controller: &Controller, model: &model::Domain) -> Result<DeviceSpec> {
    let index = controller.index.unwrap_or(0);
    let mut ports = Vec::new();
    for console in &model.virtio_consoles {
        if let Some(number) = number(console.place, index) {
            ports.push(PortSpec {
                number,
                id: console.alias.clone(),
                name: None,
                console: true,
                stream: stream(&console.backend),
            });
        }
    }
    for channel in &model.channels {
        if let Some(number) = number(channel.place, index) {
            ports.push(PortSpec {
                number,
                id: channel.alias.clone(),
                name: channel.name.clone(),
                console: false,
                stream: stream(&channel.backend),
            });
        }
    }
    let least = ports.iter().map(|port| port.number.saturating_add(1)).max();
    let least = least.unwrap_or(1);
    let max_ports = controller.ports.unwrap_or(least);
    if max_ports < least {
        let message = format!(
            "the virtio-serial controller {index} has {max_ports} ports, and port {} is in use",
            least - 1
        );
        return Err(Error::new(Kind::Definition, message)
            .hint(format!("give it ports='{least}' at least, or none")));
    }
    Ok(DeviceSpec {
        id: controller.alias.clone(),
        address: controller.address,
        kind: DeviceKind::VirtioConsole(ConsoleSpec { max_ports, ports }),
    })
}

fn number(place: PortPlace, controller: u32) -> Option<u16> {
    place.port.filter(|_| place.controller == controller)
}

/// Descriptors come when everything else has been found right.
fn stream(backend: &CharBackend) -> PortStream {
    match backend {
        CharBackend::UnixListen(_) => PortStream::Socket { listener: Fd(-1) },
        CharBackend::Pty => PortStream::Console {
            log: None,
            socket: None,
            pty: None,
        },
        CharBackend::Null | CharBackend::Other(_) => PortStream::Null,
    }
}

impl Manager {
    /// Whether a process of the guest has each port open, by alias; empty when its process does not
    /// say.
    pub(super) fn open_ports(&self, guest: &Guest) -> BTreeMap<String, bool> {
        if guest.record.sockets.is_empty() {
            return BTreeMap::new();
        }
        let devices = self.device_stats(guest).unwrap_or_default();
        let ports = devices
            .values()
            .filter_map(|device| device["ports"].as_array());
        ports
            .flatten()
            .filter_map(|port| {
                let id = port["id"].as_str()?.to_string();
                Some((id, port["guest_open"].as_bool()?))
            })
            .collect()
    }
}

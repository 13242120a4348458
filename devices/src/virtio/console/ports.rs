//! All ports of a device, and its two control queues.

use super::control::{self, Said};
use super::port::{End, Port};
use super::state::ConsoleState;
use crate::backend::char::{Front, Hub};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, Signal, race};
use images::exec::yield_now;
use std::sync::{Arc, Weak};

/// Messages that are handled before other queues have their turn.
const BURST: usize = 64;

/// The ports of one device. They outlive the driver.
pub(super) struct Ports {
    id: String,
    ports: Vec<Arc<Port>>,
    /// There is something to tell the driver.
    told: Signal,
}

impl Ports {
    pub(super) fn new(id: &str, ports: Vec<Port>) -> Self {
        let ports: Vec<_> = ports.into_iter().map(Arc::new).collect();
        for port in &ports {
            if let End::Hub(hub) = &port.end {
                let front: Weak<Port> = Arc::downgrade(port);
                hub.attach(front as Weak<dyn Front>);
            }
        }
        Self {
            id: id.into(),
            ports,
            told: Signal::default(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn all(&self) -> &[Arc<Port>] {
        &self.ports
    }

    pub(super) fn find(&self, number: u32) -> Option<&Arc<Port>> {
        self.ports.iter().find(|port| port.number() == number)
    }

    pub(super) fn hubs(&self) -> impl Iterator<Item = &Arc<Hub>> {
        self.ports.iter().filter_map(|port| match &port.end {
            End::Hub(hub) => Some(hub),
            End::Socket(_) | End::Null => None,
        })
    }

    /// Where an emergency character goes: to the console that every driver knows.
    pub(super) fn emergency(&self) -> Option<&Arc<Hub>> {
        let port = self.find(0).filter(|port| port.console)?;
        match &port.end {
            End::Hub(hub) => Some(hub),
            End::Socket(_) | End::Null => None,
        }
    }

    /// The driver may have to be told something.
    pub(super) fn news(&self) {
        self.told.ring();
    }

    pub(super) fn state(&self) -> ConsoleState {
        ConsoleState {
            ports: self.ports.iter().map(|port| port.state()).collect(),
        }
    }

    fn has_news(&self) -> bool {
        self.ports.iter().any(|port| port.has_news())
    }

    /// The next message for the driver; it counts as told.
    fn next_message(&self) -> Option<Vec<u8>> {
        self.ports.iter().find_map(|port| port.next_message())
    }

    fn heard(&self, said: Said) {
        match said {
            Said::DeviceReady(true) => self.ports.iter().for_each(|port| port.announce()),
            Said::DeviceReady(false) => {
                tracing::debug!(id = self.id, "the driver could not be set up");
            }
            Said::PortReady(number, ok) => {
                if let Some(port) = self.find(number) {
                    port.set_ready(ok);
                }
            }
            Said::PortOpen(number, open) => {
                if let Some(port) = self.find(number) {
                    port.set_guest_open(open);
                }
            }
        }
        self.news();
    }
}

/// Serves the control queue that the driver reads, until it is stopped.
pub(super) async fn tell(ports: Arc<Ports>, queue: Arc<Virtqueue>) {
    loop {
        if !ports.has_news() {
            // The doorbell also rings for a stop.
            if race(queue.kicked(), ports.told.heard()).await == First::A(false) {
                return;
            }
            continue;
        }
        let Some(element) = queue.next() else {
            if !queue.kicked().await {
                return;
            }
            continue;
        };
        match ports.next_message() {
            Some(message) => {
                let written = element.write_at(0, &message);
                element.complete(u32::try_from(written).unwrap_or(0));
            }
            None => queue.give_back(vec![element]),
        }
    }
}

/// Serves the control queue that the driver writes, until it is stopped.
pub(super) async fn listen(ports: Arc<Ports>, queue: Arc<Virtqueue>) {
    loop {
        let mut handled = 0;
        while handled < BURST
            && let Some(element) = queue.next()
        {
            handled += 1;
            hear(&ports, element);
        }
        if handled == BURST {
            yield_now().await;
        } else if !queue.kicked().await {
            return;
        }
    }
}

fn hear(ports: &Ports, element: Element) {
    let mut bytes = [0; control::LENGTH];
    let length = element.read_at(0, &mut bytes);
    if let Some(said) = control::parse(bytes.get(..length).unwrap_or_default()) {
        ports.heard(said);
    }
    element.complete(0);
}

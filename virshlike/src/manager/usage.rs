//! What running domains use of their host, all of them at once: the ground of `vm top` and
//! `vm metrics`.
//!
//! One question per guest, asked of all at the same time, so that one that hangs delays the answer by
//! [`PATIENCE`] and no more. Counters grow from the start of a guest's process and are never reset.

use super::{Manager, State};
use crate::error::Result;
use crate::runtime::Guest;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fs;
use std::time::Duration;
use uuid::Uuid;
use vmm_api::control::client::ClientError;
use vmm_api::control::{Reply, Request, Status};

/// How long a guest's process may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Guests that are asked at the same time.
const AT_ONCE: usize = 32;

/// What one running domain uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is doing; `NoAnswer` when its process says nothing, and the counters are then absent.
    pub state: State,
    /// Seconds since the Unix epoch at which its process was started.
    pub started: u64,
    /// Counters and sizes.
    #[serde(flatten)]
    pub counters: Option<Counters>,
}

/// Counters and sizes of one running domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// vCPUs.
    pub vcpus: u32,
    /// CPU time of its process in nanoseconds.
    pub cpu_time_ns: u64,
    /// Bytes of guest RAM.
    pub memory: u64,
    /// Bytes of it that the balloon leaves to the guest.
    pub memory_left: u64,
    /// Bytes that the guest has unused, and could use without swapping, as far as it says so.
    pub guest_unused: Option<u64>,
    /// The second of these.
    pub guest_usable: Option<u64>,
    /// Bytes that its process has in memory; 0 where /proc does not show it.
    pub resident: u64,
    /// Disk requests and bytes, all disks together.
    pub read_requests: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write requests.
    pub write_requests: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes that the guest received.
    pub rx_bytes: u64,
    /// Bytes that the guest sent.
    pub tx_bytes: u64,
}

impl Manager {
    /// What every running domain uses, in the order of their ids.
    ///
    /// # Errors
    /// A runtime directory that cannot be read.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        let guests = self.guests()?;
        let mut answers = Vec::with_capacity(guests.len());
        for some in guests.chunks(AT_ONCE) {
            std::thread::scope(|scope| {
                let asked: Vec<_> = some
                    .iter()
                    .map(|guest| scope.spawn(|| of_guest(guest)))
                    .collect();
                // A thread that panicked has nothing to tell of its guest.
                answers.extend(
                    asked
                        .into_iter()
                        .filter_map(|one| one.join().ok().flatten()),
                );
            });
        }
        Ok(answers)
    }
}

/// `None` for one that ended while it was asked.
fn of_guest(guest: &Guest) -> Option<Usage> {
    let answer = ask(guest);
    if answer.is_err() && !guest.dir().lock_is_held().unwrap_or(false) {
        return None;
    }
    let (state, counters) = match answer {
        Ok((status, devices)) => {
            let mut counters = of_devices(&devices);
            counters.vcpus = status.vcpus;
            counters.cpu_time_ns = status.cpu_time;
            counters.memory = status.memory;
            counters.memory_left = status.memory_left.unwrap_or(status.memory);
            counters.resident = resident(guest).unwrap_or(0);
            (State::of_run(&status.run), Some(counters))
        }
        Err(_) => (State::NoAnswer, None),
    };
    Some(Usage {
        id: guest.record.id,
        name: guest.record.name.clone(),
        uuid: guest.record.uuid,
        state,
        started: guest.record.started,
        counters,
    })
}

fn ask(guest: &Guest) -> Result<(Status, Map<String, Value>), ClientError> {
    let mut client = guest.connect(PATIENCE)?;
    let status = match client.call(Request::Query, &[], PATIENCE)? {
        Reply::Status(status) => *status,
        _ => return Err(ClientError::Closed),
    };
    let devices = match client.call(Request::Stats { device: None }, &[], PATIENCE)? {
        Reply::Stats { devices } => devices,
        _ => Map::new(),
    };
    Ok((status, devices))
}

/// The sums over all devices; a device without a counter adds nothing.
fn of_devices(devices: &Map<String, Value>) -> Counters {
    let sum = |kind: &str, counter: &str| {
        devices
            .values()
            .filter_map(|device| device.get(kind)?.get(counter)?.as_u64())
            .fold(0, u64::saturating_add)
    };
    let said = |name: &str| {
        let figure = |device: &Value| {
            device
                .get("statistics")?
                .get("figures")?
                .get(name)?
                .as_u64()
        };
        devices.values().find_map(figure)
    };
    Counters {
        guest_unused: said("unused"),
        guest_usable: said("usable"),
        read_requests: sum("read", "requests"),
        read_bytes: sum("read", "bytes"),
        write_requests: sum("write", "requests"),
        write_bytes: sum("write", "bytes"),
        rx_bytes: sum("rx", "bytes"),
        tx_bytes: sum("tx", "bytes"),
        ..Counters::default()
    }
}

/// Bytes that a guest's process has in memory (proc(5), `VmRSS`).
pub fn resident(guest: &Guest) -> Option<u64> {
    let process = guest.record.process.filter(|process| process.exists())?;
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_the_devices_that_have_them() {
        let devices = serde_json::json!({
            "virtio-disk0": {"read": {"requests": 2, "bytes": 10}, "write": {"bytes": 1}},
            "virtio-disk1": {"read": {"requests": 3, "bytes": 20}},
            "net0": {"rx": {"bytes": 5}, "tx": {"bytes": 6}},
            "rng0": {"bytes": 99},
        });
        let sums = of_devices(devices.as_object().unwrap());
        assert_eq!((sums.read_requests, sums.read_bytes), (5, 30));
        assert_eq!((sums.write_requests, sums.write_bytes), (0, 1));
        assert_eq!((sums.rx_bytes, sums.tx_bytes), (5, 6));
    }
}

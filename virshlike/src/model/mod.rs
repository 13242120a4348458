//! Typed definitions: what a document means, what of it is honoured, and what it lacks.
//!
//! ```text
//! Document --Domain::parse--> Domain + warnings      (or every error at once)
//!     |                          |
//!     '------ complete ----------'   fills in what is missing, once, in both
//! ```
//!
//! Nothing here opens a file or looks at the host.

mod boot;
mod complete;
mod device;
mod display;
mod domain;
mod dump;
mod findings;
mod limits;
mod memory;
mod network;
mod parse;
mod policy;
mod schema;
mod serial_bus;
mod slots;
mod tune;
mod tune_edit;
mod user_network;
mod value;
mod virtio;

pub use complete::complete;
pub use device::*;
pub use domain::*;
pub use dump::{DumpOptions, Live, inactive_xml, live_xml, updated_xml};
pub use limits::{changed as changed_limits, set_limits};
pub use memory::{amount_kib, set_current_memory, set_max_memory, set_stats_period};
pub use network::{
    Dhcp, DhcpHost, Dns, Forward, ForwardMode, Lease, Network, Route, Subnet, complete_network,
    network_of, network_xml,
};
pub use policy::{Autostart, NAMESPACE, Policy, Restart, RestartWhen};
pub(crate) use schema::network_order;
pub use schema::{domain_xml_reference, network_xml_reference};
pub use tune::{CpuList, CpuTune, MemTune, NumaMode, NumaTune, Pinned, cpu_list, set_pin};
pub use tune_edit::set_limit;
pub use user_network::{PortForward, PortRange, Protocol, UserNetwork};
pub(crate) use value::nearest;
pub use virtio::map_to_virtio;

#[cfg(test)]
mod tests;

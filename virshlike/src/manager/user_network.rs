//! `<interface type='user'>` on the way to a running guest: the connection is made with the machine,
//! passt is started when everything else is ready, and ends with the guest.

use crate::error::{Error, Kind, Result};
use crate::model::{Interface, UserNetwork};
use crate::runtime::cgroup::Group;
use crate::runtime::files::Descriptors;
use crate::runtime::passt::{self, Helper, PASST};
use crate::runtime::record::RunRecord;
use std::os::unix::net::UnixStream;
use uuid::Uuid;
use vmm_api::spec::NetBackend;

/// Makes the connection of an interface: the guest's end, and who is to serve it. `index` tells it from
/// the domain's other interfaces.
///
/// # Errors
/// There is no passt, or no descriptor is left.
pub(super) fn connect(
    interface: &Interface,
    network: &UserNetwork,
    (domain, index): (Uuid, usize),
    descriptors: &mut Descriptors,
) -> Result<(NetBackend, Helper)> {
    PASST.need()?;
    let (guests, socket) = UnixStream::pair().map_err(|error| {
        Error::new(Kind::Host, "cannot make a pair of sockets").cause(error.to_string())
    })?;
    let helper = Helper {
        name: passt::name(domain, index),
        socket: socket.into(),
        arguments: passt::arguments(network, interface.mtu),
        log: network.log.clone(),
    };
    Ok((NetBackend::Stream(descriptors.keep(guests)), helper))
}

/// Starts those that serve a guest which is about to be started. When that fails after all they end by
/// themselves, since nobody holds the guest's end.
///
/// # Errors
/// One that does not serve.
pub(super) fn start(helpers: Vec<Helper>, record: &RunRecord) -> Result<()> {
    if helpers.is_empty() {
        return Ok(());
    }
    let group = Group::for_helper(&record.name);
    for helper in helpers {
        passt::start(helper, &group)?;
    }
    Ok(())
}

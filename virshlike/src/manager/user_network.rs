//! `<interface type='user'>` on the way to a running guest: the connection is made with the machine,
//! passt is started when everything else is ready, and ends with the guest. A passt that ends before its
//! guest is not missed by anybody but the guest, whose link is down: `reconnect_cards` starts another one,
//! and the card goes on with it.

use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Interface, InterfaceSource, UserNetwork};
use crate::runtime::cgroup::Group;
use crate::runtime::files::Descriptors;
use crate::runtime::guest::{ANSWER, explain};
use crate::runtime::passt::{self, Helper, PASST};
use crate::runtime::record::RunRecord;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use uuid::Uuid;
use vmm_api::control::Request;
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
    let (guests, helper) = pair(interface, network, (domain, index))?;
    Ok((NetBackend::Stream(descriptors.keep(guests)), helper))
}

/// The guest's end of a new connection, and who is to serve the other one.
fn pair(
    interface: &Interface,
    network: &UserNetwork,
    (domain, index): (Uuid, usize),
) -> Result<(OwnedFd, Helper)> {
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
    Ok((guests.into(), helper))
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

/// A card on passt, and its place among the domain's interfaces.
fn cards<'a>(
    model: &'a model::Domain,
    only: Option<&'a str>,
) -> impl Iterator<Item = (usize, &'a Interface, &'a UserNetwork)> {
    let cards = model.interfaces.iter().enumerate();
    cards.filter_map(move |(index, card)| match &card.source {
        InterfaceSource::User(network) if only.is_none_or(|only| is_called(card, only)) => {
            Some((index, card, network))
        }
        _ => None,
    })
}

fn is_called(card: &Interface, name: &str) -> bool {
    card.alias == name
        || card
            .mac
            .is_some_and(|mac| mac.to_string().eq_ignore_ascii_case(name))
}

/// What people call it.
fn title(card: &Interface) -> String {
    card.mac
        .map_or_else(|| card.alias.clone(), |mac| mac.to_string())
}

impl Manager {
    /// Starts passt anew for the cards of a running domain whose passt has ended, and connects them; `only`
    /// one of them, by MAC address or alias. Those that it did it for, by MAC address.
    ///
    /// # Errors
    /// The domain is not running, has no such card on passt, or a passt does not serve: the card then stays
    /// without a network, as it was.
    pub fn reconnect_cards(&self, domain: &Domain, only: Option<&str>) -> Result<Vec<String>> {
        let _lock = self.store.lock_domain(domain.uuid, &domain.name)?;
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        if cards(&model, only).next().is_none() {
            let what = match only {
                Some(name) => format!(
                    "domain '{}' has no interface '{name}' of type user",
                    domain.name
                ),
                None => format!("domain '{}' has no interface of type user", domain.name),
            };
            let hint = format!("vm domiflist {}", domain.name);
            return Err(Error::new(Kind::NotFound, what).hint(hint));
        }
        let stats = self.device_stats(&guest)?;
        let mut done = Vec::new();
        for (index, card, network) in cards(&model, only) {
            let connected = stats
                .get(&card.alias)
                .and_then(|card| card.get("connected"));
            // A process of an older build does not say, and could not go on with another one either.
            if connected.and_then(serde_json::Value::as_bool) != Some(false) {
                continue;
            }
            let (guests, mut helper) = pair(card, network, (domain.uuid, index))?;
            // By the name in its record a passt is ended with its guest. The one before may hang, and
            // hold the ports.
            if let Some(name) = passt::of_interface(&guest.record.helpers, domain.uuid, index) {
                passt::end_all(std::slice::from_ref(name));
                helper.name.clone_from(name);
            }
            start(vec![helper], &guest.record)?;
            let device = card.alias.clone();
            guest
                .connect(ANSWER)
                .and_then(|mut client| {
                    client.call(Request::ConnectCard { device }, &[guests.as_fd()], ANSWER)
                })
                .map_err(|error| explain(&error, &format!("domain '{}'", domain.name)))?;
            let title = title(card);
            self.note(domain.uuid, "domif-reconnect", &domain.name, &title);
            done.push(title);
        }
        Ok(done)
    }
}

//! Who is there, who may come in, and who has to go.
//!
//! ```text
//! accepted -> entering -> inside (shared or alone) -> gone
//!                 |              |
//!                 +--------------+--> sent away: the bell rings, the place is free at once
//! ```
//!
//! Somebody who has not finished the handshake has proved nothing, so such connections are few, per
//! address and altogether, and short (but for the typing of a password): a new one takes the place of
//! the oldest. Whoever is inside is never
//! sent away for a newcomer that has not come in itself.

use devices::backend::display::Display;
use devices::virtio::worker::Signal;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::{SharePolicy, VncSpec};

/// Clients that are inside at the same time; further ones are sent away at once.
pub(super) const MOST_INSIDE: usize = 32;
/// Connections of all addresses that have not finished the handshake.
pub(super) const MOST_ENTERING: usize = 16;
/// Those of one address.
pub(super) const MOST_OF_ADDRESS: usize = 4;
/// How long a client may take for each thing that a program says while it comes in.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to the challenge may take: somebody types a password for it.
const TYPING: Duration = Duration::from_secs(120);

/// Who may come in.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) name: String,
    pub(super) password: Option<String>,
    pub(super) password_until: Option<u64>,
    pub(super) share: SharePolicy,
    /// How long a client may take for each thing that a program says while it comes in.
    pub(super) patience: Duration,
    /// How long the answer to the challenge may take.
    pub(super) typing: Duration,
}

impl Rules {
    pub(super) fn new(spec: &VncSpec, name: &str) -> Self {
        Self {
            name: name.into(),
            password: spec.password.clone(),
            password_until: spec.password_until,
            share: spec.share,
            patience: PATIENCE,
            typing: TYPING,
        }
    }
}

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Entering,
    Shared,
    Alone,
}

/// A client, as the house knows it.
#[derive(Debug)]
pub(super) struct Guest {
    /// Rings when it has to go.
    pub(super) bell: Signal,
    /// Where it comes from; `None` from this host, by a Unix socket.
    from: Option<IpAddr>,
    place: Cell<Place>,
}

/// The server, its rules and who is there, the oldest first.
pub(super) struct House {
    pub(super) rules: Rules,
    pub(super) display: Arc<Display>,
    guests: RefCell<Vec<Weak<Guest>>>,
}

impl House {
    pub(super) fn new(rules: Rules, display: Arc<Display>) -> Self {
        Self {
            rules,
            display,
            guests: RefCell::default(),
        }
    }

    /// Lets somebody begin the handshake; the oldest who has not finished it may have to go for that.
    pub(super) fn admit(&self, from: Option<IpAddr>) -> Rc<Guest> {
        let from = from.map(network);
        let entering: Vec<_> = self.all(|place| place == Place::Entering).collect();
        let same = |guest: &&Rc<Guest>| from.is_some() && guest.from == from;
        let of_address = entering.iter().filter(same);
        if of_address.clone().count() >= MOST_OF_ADDRESS {
            of_address.take(1).for_each(|guest| self.send_away(guest));
        } else if entering.len() >= MOST_ENTERING {
            entering
                .first()
                .iter()
                .for_each(|guest| self.send_away(guest));
        }
        let guest = Rc::new(Guest {
            bell: Signal::default(),
            from,
            place: Cell::new(Place::Entering),
        });
        self.guests.borrow_mut().push(Rc::downgrade(&guest));
        guest
    }

    /// The handshake is over and `guest` has said whether it wants to be alone. Why it may not come in,
    /// if it may not; who has to go for it is told to.
    ///
    /// RFC 6143 §7.3.1, within the policy: a client that wants to be alone ends the others, and while it
    /// is there nobody else comes in but another one of its kind.
    pub(super) fn enter(&self, guest: &Rc<Guest>, shared: bool) -> Result<(), &'static str> {
        let inside = self.all(|place| place != Place::Entering);
        match (self.rules.share, shared) {
            (SharePolicy::AllowExclusive, false) => {
                inside.for_each(|other| self.send_away(&other));
                guest.place.set(Place::Alone);
                return Ok(());
            }
            (SharePolicy::AllowExclusive, true) => {
                if self.all(|place| place == Place::Alone).next().is_some() {
                    return Err("somebody is there who wants to be alone");
                }
            }
            (SharePolicy::ForceShared, false) => {
                return Err("it wants to be alone, which nobody may");
            }
            (SharePolicy::ForceShared, true) | (SharePolicy::Ignore, _) => {}
        }
        if inside.count() >= MOST_INSIDE {
            return Err("the house is full");
        }
        guest.place.set(Place::Shared);
        Ok(())
    }

    /// Those that are there and stand at such a place.
    fn all(&self, is: impl Fn(Place) -> bool) -> impl Iterator<Item = Rc<Guest>> {
        let mut guests = self.guests.borrow_mut();
        guests.retain(|guest| guest.strong_count() > 0);
        let all: Vec<_> = guests.iter().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(move |guest| is(guest.place.get()))
    }

    fn send_away(&self, guest: &Rc<Guest>) {
        self.guests
            .borrow_mut()
            .retain(|other| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(guest)));
        guest.bell.ring();
    }
}

/// What counts as one address: of IPv6 the network, since who has one address has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(share: SharePolicy) -> House {
        let rules = Rules {
            name: "web01".into(),
            password: None,
            password_until: None,
            share,
            patience: PATIENCE,
            typing: TYPING,
        };
        House::new(rules, Arc::default())
    }

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(number.into()))
    }

    /// Whether it was not told to go.
    fn stays(house: &House, guest: &Rc<Guest>) -> bool {
        house.all(|_| true).any(|other| Rc::ptr_eq(&other, guest))
    }

    #[test]
    fn newcomers_take_the_places_of_those_who_linger() {
        let house = house(SharePolicy::Ignore);
        let inside = house.admit(address(9));
        house.enter(&inside, true).unwrap();
        let other = house.admit(address(1));
        let same: Vec<_> = (0..6).map(|_| house.admit(address(9))).collect();
        // One address ends its own.
        let stay: Vec<_> = same.iter().map(|guest| stays(&house, guest)).collect();
        assert_eq!(stay, [false, false, true, true, true, true]);
        assert!(stays(&house, &other) && stays(&house, &inside));
        // All of them together end the oldest.
        let many: Vec<_> = (0..12).map(|n| house.admit(address(100 + n))).collect();
        assert!(!stays(&house, &other) && stays(&house, &inside));
        assert!(many.iter().all(|guest| stays(&house, guest)));
        let entering = || house.all(|place| place == Place::Entering).count();
        assert_eq!(entering(), MOST_ENTERING);
        // Who has left takes no place.
        drop((same, many));
        assert_eq!(entering(), 0);
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_unix_socket_is_none() {
        let house = house(SharePolicy::Ignore);
        let v6 = |last: u128| Some(IpAddr::V6((0x2001_0db8_u128 << 96 | last).into()));
        let same: Vec<_> = (0..5).map(|last| house.admit(v6(last))).collect();
        assert!(!stays(&house, &same[0]) && stays(&house, &same[1]));
        assert_eq!(
            network("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
        let local: Vec<_> = (0..6).map(|_| house.admit(None)).collect();
        assert!(local.iter().all(|guest| stays(&house, guest)));
    }

    #[test]
    fn who_is_alone_stays_alone_until_another_one_wants_to_be() {
        let house = house(SharePolicy::AllowExclusive);
        let come = |shared| {
            let guest = house.admit(address(1));
            house.enter(&guest, shared).map(|()| guest)
        };
        let (first, second) = (come(true).unwrap(), come(true).unwrap());
        let entering = house.admit(address(2));
        let alone = come(false).unwrap();
        assert!(!stays(&house, &first) && !stays(&house, &second));
        assert!(stays(&house, &entering), "it has asked for nothing yet");
        assert!(come(true).is_err() && stays(&house, &alone));
        let next = come(false).unwrap();
        assert!(!stays(&house, &alone) && stays(&house, &next));
        drop(next);
        come(true).unwrap();
    }

    #[test]
    fn policies_refuse_or_do_not_look() {
        let forced = house(SharePolicy::ForceShared);
        let guest = forced.admit(None);
        assert!(forced.enter(&guest, false).is_err());
        forced.enter(&guest, true).unwrap();
        let any = house(SharePolicy::Ignore);
        let mut guests = Vec::new();
        for number in 0..MOST_INSIDE {
            let guest = any.admit(None);
            any.enter(&guest, number % 2 == 0).unwrap();
            guests.push(guest);
        }
        assert!(any.enter(&any.admit(None), true).is_err(), "full");
        assert!(guests.iter().all(|guest| stays(&any, guest)));
    }
}

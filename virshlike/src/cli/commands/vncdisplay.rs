//! `vm vncdisplay`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::display::FIRST_PORT;
use crate::runtime::record::VncPlace;
use serde::Serialize;

/// Print where the VNC display of a running domain is
///
/// Display N listens on port 5900 + N. Without an address in front it listens on every address of this host.
#[derive(Debug, clap::Args)]
pub struct Vncdisplay {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Vncdisplay {
    const NAME: &'static str = "vncdisplay";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let place = context.manager()?.display(&domain)?;
        if context.ui.is_json() {
            return context.ui.json(&Shown::of(&place));
        }
        let address = place.address.as_deref().filter(|address| !is_any(address));
        context.ui.line(match (&place.port, &place.socket) {
            (Some(port), _) => format!("{}:{}", host(address.unwrap_or_default()), number(*port)),
            (None, socket) => socket.clone().unwrap_or_default(),
        })
    }
}

/// `vm domdisplay`
///
/// Print the address of the display of a running domain, as viewers take it
#[derive(Debug, clap::Args)]
#[command(about = "Print the address of the display of a running domain, as viewers take it", long_about = None)]
pub struct Domdisplay {
    /// The domain: name, id or UUID
    domain: String,
    /// Print the password too
    #[arg(long)]
    include_password: bool,
    /// Only a display of this type: vnc, or ws for its WebSocket
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Print all addresses: those of VNC, on TCP and on a Unix socket, and of its WebSocket
    #[arg(long)]
    all: bool,
}

impl Verb for Domdisplay {
    const NAME: &'static str = "domdisplay";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        let place = manager.display(&domain)?;
        let password = match self.include_password {
            true => manager.display_password(&domain)?,
            false => None,
        };
        let mut uris = uris(&place, password.as_deref());
        if let Some(kind) = self.kind {
            uris.retain(|uri| uri.split([':', '+']).next() == Some(&kind));
            if uris.is_empty() {
                let message = format!("No graphical display with type '{kind}' found");
                return Err(Error::new(Kind::NotFound, message));
            }
        }
        match (context.ui.is_json(), self.all) {
            (true, true) => return context.ui.json(&uris),
            (true, false) => return context.ui.json(&uris.first()),
            (false, true) => context.ui.data(&uris.join("\n"))?,
            (false, false) => context.ui.data(uris.first().map_or("", String::as_str))?,
        }
        context.ui.end();
        context.ui.no_end();
        Ok(())
    }
}

/// A display for programs.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    /// The address that it listens on.
    address: Option<&'a str>,
    /// Its TCP port.
    port: Option<u16>,
    /// Its TCP port for WebSockets.
    websocket: Option<u16>,
    /// Its number: the port counted from 5900.
    display: Option<i32>,
    /// Its socket.
    socket: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(place: &'a VncPlace) -> Self {
        Self {
            address: place.address.as_deref(),
            port: place.port,
            websocket: place.websocket,
            display: place.port.map(number),
            socket: place.socket.as_deref(),
        }
    }
}

fn number(port: u16) -> i32 {
    i32::from(port) - i32::from(FIRST_PORT)
}

fn is_any(address: &str) -> bool {
    address
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}

/// An address as it stands in front of a colon.
fn host(address: &str) -> String {
    match address.contains(':') {
        true => format!("[{address}]"),
        false => address.into(),
    }
}

/// Every address of a display, the one that viewers know best first.
fn uris(place: &VncPlace, password: Option<&str>) -> Vec<String> {
    let password = password.map(|password| format!(":{password}@"));
    let password = password.unwrap_or_default();
    let address = place.address.as_deref().filter(|address| !is_any(address));
    let address = host(address.unwrap_or("127.0.0.1"));
    let tcp = place.port.map(number);
    let tcp = tcp.map(|number| format!("vnc://{password}{address}:{number}"));
    let unix = place.socket.as_ref();
    let unix = unix.map(|socket| format!("vnc+unix://{password}{socket}"));
    // A browser has no place for a password of VNC in an address.
    let web = place.websocket.map(|port| format!("ws://{address}:{port}"));
    tcp.into_iter().chain(unix).chain(web).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_viewers_take() {
        let mut place = VncPlace {
            address: Some("::1".into()),
            port: Some(5907),
            ..VncPlace::default()
        };
        assert_eq!(uris(&place, None), ["vnc://[::1]:7"]);
        place.address = Some("0.0.0.0".into());
        place.websocket = Some(5700);
        place.socket = Some("/run/x".into());
        assert_eq!(
            uris(&place, Some("x")),
            [
                "vnc://:x@127.0.0.1:7",
                "vnc+unix://:x@/run/x",
                "ws://127.0.0.1:5700"
            ]
        );
        place = VncPlace {
            socket: Some("/run/x".into()),
            ..VncPlace::default()
        };
        assert_eq!(uris(&place, None), ["vnc+unix:///run/x"]);
    }
}

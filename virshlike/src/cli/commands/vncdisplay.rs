//! `vm vncdisplay`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
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
    /// Only a display of this type: vnc
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Print the addresses of all displays; there is one
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
        if let Some(kind) = self.kind.filter(|kind| kind != "vnc") {
            let message = format!("No graphical display with type '{kind}' found");
            return Err(crate::error::Error::new(
                crate::error::Kind::NotFound,
                message,
            ));
        }
        let password = match self.include_password {
            true => manager.display_password(&domain)?,
            false => None,
        };
        let uri = uri(&place, password.as_deref());
        if context.ui.is_json() {
            return context.ui.json(&uri);
        }
        context.ui.data(&uri)?;
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

fn uri(place: &VncPlace, password: Option<&str>) -> String {
    let password = password.map(|password| format!(":{password}@"));
    let password = password.unwrap_or_default();
    match (&place.port, &place.socket) {
        (Some(port), _) => {
            let address = place.address.as_deref().filter(|address| !is_any(address));
            let address = host(address.unwrap_or("127.0.0.1"));
            format!("vnc://{password}{address}:{}", number(*port))
        }
        (None, socket) => format!("vnc+unix://{password}{}", socket.as_deref().unwrap_or("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_viewers_take() {
        let mut place = VncPlace {
            address: Some("::1".into()),
            port: Some(5907),
            socket: None,
        };
        assert_eq!(uri(&place, None), "vnc://[::1]:7");
        place.address = Some("0.0.0.0".into());
        assert_eq!(uri(&place, Some("x")), "vnc://:x@127.0.0.1:7");
        place = VncPlace {
            socket: Some("/run/x".into()),
            ..VncPlace::default()
        };
        assert_eq!(uri(&place, None), "vnc+unix:///run/x");
    }
}

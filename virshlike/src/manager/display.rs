//! The display of a definition as parts of a machine, its sockets, and what is asked of it while the
//! guest runs.

use super::machine::{Place, needed};
use super::output::OutputFile;
use super::picture::{self, PictureFormat};
use super::streams::listen_at;
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result, plain_io};
use crate::model::{self, Graphics, GraphicsListen};
use crate::runtime::files::Descriptors;
use crate::runtime::guest::{ANSWER, Guest, explain};
use crate::runtime::record::{RunRecord, VncPlace};
use crate::runtime::rundir::RunDir;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use vmm_api::control::Request;
use vmm_api::spec::{DeviceKind, DeviceSpec, GpuSpec, InputModel, InputSpec, MachineSpec, VncSpec};

/// The first port of a VNC server, which clients call display 0.
pub const FIRST_PORT: u16 = 5900;
/// The first port of its WebSockets.
pub const FIRST_WEBSOCKET: u16 = 5700;
/// The socket's file name where the definition names none.
const SOCKET: &str = "vnc";
/// Longest time that keys are held, in milliseconds.
pub const LONGEST_HOLD: u32 = 60_000;

/// Video cards and virtio input devices.
pub(super) fn devices(model: &model::Domain, place: &Place<'_>) -> Result<Vec<DeviceSpec>> {
    let mut devices = Vec::new();
    for video in model.videos.iter().filter(|video| video.is_card()) {
        let usual = GpuSpec::default();
        let (width, height) = video.resolution.unwrap_or((usual.width, usual.height));
        devices.push(DeviceSpec {
            id: video.alias.clone(),
            address: needed(video.address, video.at, place)?,
            kind: DeviceKind::VirtioGpu(GpuSpec {
                width,
                height,
                memory: video
                    .memory_kib
                    .map_or(usual.memory, |kib| u64::from(kib) * 1024),
            }),
        });
    }
    for input in &model.inputs {
        let model = match input.kind.as_str() {
            "keyboard" => InputModel::Keyboard,
            "tablet" => InputModel::Tablet,
            "mouse" => InputModel::Mouse,
            _ => continue,
        };
        if input.bus.as_deref() == Some("virtio") {
            devices.push(DeviceSpec {
                id: input.alias.clone(),
                address: needed(input.address, input.at, place)?,
                kind: DeviceKind::VirtioInput(InputSpec { model }),
            });
        }
    }
    Ok(devices)
}

/// Opens the sockets of the VNC server, if there is one, and writes down where they are.
pub(super) fn open(
    spec: &mut MachineSpec,
    descriptors: &mut Descriptors,
    model: &model::Domain,
    dir: &RunDir,
    record: &mut RunRecord,
) -> Result<()> {
    let Some(graphics) = model.graphics.iter().find(|one| one.kind == "vnc") else {
        return Ok(());
    };
    let mut place = VncPlace::default();
    let (mut listeners, mut websockets) = (Vec::new(), Vec::new());
    for listen in &graphics.listens {
        match listen {
            GraphicsListen::Address(address) => {
                // All addresses have one port, since a definition shows one.
                let wanted = graphics.port.or(place.port);
                let (listener, port) = bind(address, wanted, FIRST_PORT)?;
                place.port = Some(port);
                place.address.get_or_insert_with(|| address.clone());
                listeners.push(descriptors.keep(listener));
                if let Some(port) = graphics.websocket {
                    let wanted = port.or(place.websocket);
                    let (listener, port) = bind(address, wanted, FIRST_WEBSOCKET)?;
                    place.websocket = Some(port);
                    websockets.push(descriptors.keep(listener));
                }
            }
            GraphicsListen::Socket(Some(path)) => {
                listeners.push(descriptors.keep(listen_at(Path::new(path))?));
                place.socket = Some(path.clone());
            }
            GraphicsListen::Socket(None) => {
                listeners.push(descriptors.keep(dir.listen(SOCKET)?));
                place.socket = Some(dir.path().join(SOCKET).display().to_string());
            }
            GraphicsListen::None | GraphicsListen::Network => {}
        }
    }
    if listeners.is_empty() {
        return Ok(());
    }
    spec.host.vnc = Some(VncSpec {
        listeners,
        websockets,
        password: graphics.password.clone(),
        password_until: graphics.password_until,
        share: graphics.share,
    });
    record.vnc = Some(place);
    Ok(())
}

/// The warning for a VNC server that anybody who reaches this host may use.
pub(super) fn exposed(model: &model::Domain) -> Option<String> {
    let graphics = model.graphics.iter().find(|one| one.kind == "vnc")?;
    let beyond = graphics.listens.iter().find_map(|listen| match listen {
        GraphicsListen::Address(address) => Some(address).filter(|address| !is_loopback(address)),
        _ => None,
    })?;
    graphics.password.is_none().then(|| {
        format!(
            "VNC listens on {beyond} without a password: whoever reaches that address sees and uses the \
             guest; listen on 127.0.0.1 and come through 'ssh -L', or set passwd in <graphics>"
        )
    })
}

/// Whether only this host reaches it. Names other than the usual one are not looked up.
fn is_loopback(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => address == "localhost",
    }
}

/// A listening socket: on this port, or on the first free one from `from`.
fn bind(address: &str, port: Option<u16>, from: u16) -> Result<(TcpListener, u16)> {
    let failed = |port: u16, error: &std::io::Error| {
        let kind = match error.kind() {
            ErrorKind::AddrInUse => Kind::Busy,
            _ => Kind::Host,
        };
        Error::new(
            kind,
            format!("the VNC server cannot listen on {address}, port {port}"),
        )
        .cause(plain_io(error))
    };
    let first = port.unwrap_or(from);
    let found = (address, first).to_socket_addrs().map(|mut all| all.next());
    let ip = match found {
        Ok(Some(found)) => found.ip(),
        Ok(None) => return Err(failed(first, &ErrorKind::AddrNotAvailable.into())),
        Err(error) => return Err(failed(first, &error)),
    };
    if let Some(port) = port {
        let listener = TcpListener::bind(SocketAddr::new(ip, port)).map_err(|error| {
            failed(port, &error).hint("take another port, or -1 for the first free one")
        })?;
        return Ok((listener, port));
    }
    for port in from..=u16::MAX {
        match TcpListener::bind(SocketAddr::new(ip, port)) {
            Ok(listener) => return Ok((listener, port)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(port, &error)),
        }
    }
    Err(failed(u16::MAX, &ErrorKind::AddrInUse.into()))
}

impl Manager {
    /// Where the display of a running domain is.
    ///
    /// # Errors
    /// It is not running, or nobody can look at it.
    pub fn display(&self, domain: &Domain) -> Result<VncPlace> {
        let guest = self.running(domain)?;
        if let Some(place) = guest.record.vnc {
            return Ok(place);
        }
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let is_vnc = |graphics: &Graphics| graphics.kind == "vnc";
        let why = match (model.graphics.is_empty(), model.graphics.iter().any(is_vnc)) {
            (true, _) => format!("the definition of '{}' has no <graphics>", domain.name),
            (false, true) => "its VNC server listens nowhere".to_string(),
            (false, false) => "its <graphics> is of a type that has no effect".to_string(),
        };
        Err(Error::new(Kind::NotFound, "No graphical display found")
            .cause(why)
            .hint(format!("its serial console: vm console {}", domain.name)))
    }

    /// The password of a running domain's display, if it asks for one.
    ///
    /// # Errors
    /// It is not running.
    pub fn display_password(&self, domain: &Domain) -> Result<Option<String>> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let vnc = model.graphics.into_iter().find(|one| one.kind == "vnc");
        Ok(vnc.and_then(|graphics| graphics.password))
    }

    /// Stores the picture that a domain shows in a file of its own, for its owner alone. A file of that name
    /// is replaced when the picture is there.
    ///
    /// # Errors
    /// It is not running or has no video card; the file cannot be written, or is none; what the guest's
    /// process wrote is no picture. What was there stays.
    pub fn screenshot(&self, domain: &Domain, target: &Path, format: PictureFormat) -> Result<()> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        if !model.videos.iter().any(model::Video::is_card) {
            return Err(without(
                domain,
                "video card",
                "<video><model type='virtio'/></video>",
            ));
        }
        let output = OutputFile::create(target)?;
        let failed = |error: std::io::Error| {
            Error::new(Kind::Io, "the picture cannot be stored").cause(plain_io(&error))
        };
        if format == PictureFormat::Ppm {
            self.ask_screen(&guest, Request::Screenshot, Some(output.file()), ANSWER)?;
            picture::check(output.file()).map_err(failed)?;
            return output.keep();
        }
        let plain = tempfile::tempfile().map_err(failed)?;
        self.ask_screen(&guest, Request::Screenshot, Some(&plain), ANSWER)?;
        picture::to_png(&plain, output.file()).map_err(failed)?;
        output.keep()
    }

    /// Presses keys of a domain's keyboard together and holds them for a while.
    ///
    /// # Errors
    /// It is not running or has no virtio keyboard.
    pub fn send_keys(&self, domain: &Domain, codes: Vec<u16>, hold_ms: u32) -> Result<()> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let keyboard = |input: &model::Input| {
            input.kind == "keyboard" && input.bus.as_deref() == Some("virtio")
        };
        if !model.inputs.iter().any(keyboard) {
            let element = "<input type='keyboard' bus='virtio'/>";
            return Err(without(domain, "virtio keyboard", element));
        }
        let patience = ANSWER + Duration::from_millis(hold_ms.into());
        self.ask_screen(&guest, Request::SendKeys { codes, hold_ms }, None, patience)
    }

    fn ask_screen(
        &self,
        guest: &Guest,
        request: Request,
        file: Option<&File>,
        patience: Duration,
    ) -> Result<()> {
        let what = format!("the process of domain '{}'", guest.record.name);
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        guest
            .connect(ANSWER)
            .and_then(|mut client| client.call(request, &fds, patience))
            .map(drop)
            .map_err(|error| explain(&error, &what))
    }
}

fn without(domain: &Domain, what: &str, element: &str) -> Error {
    let name = &domain.name;
    Error::new(Kind::Unsupported, format!("domain '{name}' has no {what}")).hint(format!(
        "give it one and start it again: vm edit {name}; {element}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_port_is_taken_and_a_stated_one_or_none() {
        let (first, port) = bind("127.0.0.1", None, FIRST_PORT).unwrap();
        assert!(port >= FIRST_PORT);
        let (_second, other) = bind("127.0.0.1", None, FIRST_PORT).unwrap();
        assert_ne!(port, other);
        let error = bind("127.0.0.1", Some(port), FIRST_PORT).unwrap_err();
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.message.contains(&port.to_string()));
        drop(first);
        assert!(bind("no such address", None, FIRST_PORT).is_err());
    }

    #[test]
    fn a_display_that_anybody_may_use_is_told() {
        let warning = |graphics: &str| {
            let text = format!(
                "<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type>\
                 <kernel>/k</kernel></os><devices>{graphics}</devices></domain>"
            );
            let document = crate::xml::Document::parse(&text, "a.xml").unwrap();
            exposed(&model::Domain::parse(&document).unwrap().0)
        };
        for open in ["0.0.0.0", "::", "10.0.0.1", "host.example.org"] {
            let graphics = format!("<graphics type='vnc' listen='{open}'/>");
            let told = warning(&graphics).expect(open);
            assert!(told.contains(open) && told.contains("ssh -L"), "{told}");
            let graphics = format!("<graphics type='vnc' listen='{open}' passwd='x'/>");
            assert_eq!(warning(&graphics), None);
        }
        for closed in [
            "",
            "<graphics type='vnc'/>",
            "<graphics type='vnc' listen='127.0.0.1'/>",
            "<graphics type='vnc' listen='::1'/>",
            "<graphics type='vnc' listen='localhost'/>",
            "<graphics type='vnc' socket='/run/x'/>",
        ] {
            assert_eq!(warning(closed), None, "{closed}");
        }
    }
}

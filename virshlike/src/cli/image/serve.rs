//! `vm image serve`: an image over the NBD protocol, with qemu-nbd's options.

use super::tool::{self, Access};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use crate::manager::output::OutputFile;
use crate::runtime::socket;
use images::exec;
use images::nbd::{Export, Listener, ServeOptions, serve};
use images::{DetectZeroes, DiscardMode};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Serve an image over the network block device protocol (NBD), on a Unix socket or this machine's
/// loopback address
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Unix socket to serve on
    #[arg(short = 'k', long, value_name = "PATH", conflicts_with_all = ["port", "bind"])]
    socket: Option<PathBuf>,
    /// TCP port to serve on; 0 takes a free one, which is printed
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 10809)]
    port: u16,
    /// Loopback address to serve on
    #[arg(short = 'b', long, value_name = "IFACE", default_value = "127.0.0.1")]
    bind: String,
    /// Name of the export
    #[arg(short = 'x', long, value_name = "NAME", default_value = "")]
    export_name: String,
    /// Description of the export, for people
    #[arg(short = 'D', long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Begin so many bytes into the image
    #[arg(short = 'o', long, value_name = "SIZE", default_value = "0")]
    offset: String,
    /// Refuse writes
    #[arg(short = 'r', long)]
    read_only: bool,
    /// Serve an internal snapshot, by id or name, read-only
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    load_snapshot: Option<String>,
    /// Go on when the last client has gone
    #[arg(short = 't', long)]
    persistent: bool,
    /// Clients at a time; 0 means any number
    #[arg(short = 'e', long, value_name = "NUM", default_value_t = 1)]
    shared: usize,
    /// Pass the host's page cache by: --cache=none
    #[arg(short = 'n', long = "nocache", conflicts_with = "cache")]
    no_cache: bool,
    /// Cache mode: none, writeback, writethrough, unsafe, directsync
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    cache: String,
    /// How files are read and written: io_uring, or threads; native is taken as io_uring
    #[arg(long, value_name = "AIO")]
    aio: Option<String>,
    /// What clients' discards do: ignore, unmap
    #[arg(long, value_name = "MODE", default_value = "unmap")]
    discard: String,
    /// What becomes of zeroes that clients write: off, on, unmap
    #[arg(long, value_name = "MODE", default_value = "off")]
    detect_zeroes: String,
    /// Write the process's number here when clients are welcome
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Accepted for qemu-nbd's sake
    #[arg(short = 'v', long, hide = true)]
    verbose: bool,
    #[arg(long, hide = true)]
    tls_creds: Option<String>,
    #[arg(long, hide = true)]
    tls_authz: Option<String>,
    /// The file
    filename: PathBuf,
}

/// A socket in the file system, removed at the end; and whether it is still ours.
struct SocketFile<'a> {
    path: &'a Path,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // Somebody may have put another one there meanwhile.
        if self.identity.is_some() && identity(self.path) == self.identity {
            // It is of no use to anybody; what is left of it is refused or replaced next time.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

impl Serve {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with the image or the socket.
    pub fn run(self, context: &Context) -> Result<()> {
        if self.tls_creds.is_some() || self.tls_authz.is_some() {
            return Err(
                Error::new(Kind::Unsupported, "TLS is not built into this server")
                    .hint("serve a Unix socket (-k) and carry it through ssh -L"),
            );
        }
        let stop = stop_signals()?;
        let executor = tool::executor_for(self.aio.as_deref())?;
        let format = tool::format_of(&self.filename, self.fmt.as_deref())?;
        let image = tool::open_as_of(
            &self.filename,
            format,
            self.access()?,
            self.load_snapshot.as_deref(),
        )?;
        tool::activate(&executor, &self.filename, &image)?;
        let offset = tool::size(&self.offset)?;
        let export = Export::new(image.clone())
            .named(&self.export_name, &self.description)
            .and_then(|export| export.from_offset(offset))
            .map_err(|error| tool::wrong(&self.filename, &error))?
            .read_only(self.read_only);
        let (listener, address) = self.listen()?;
        let _socket = self.socket.as_deref().map(|path| SocketFile {
            path,
            identity: identity(path),
        });
        context
            .ui
            .sentence(format!("Serving {} on {address}", self.filename.display()))?;
        if let Some(path) = &self.pid_file {
            let output = OutputFile::create(path)?;
            writeln!(output.file(), "{}", std::process::id())
                .map_err(|error| Error::io("write", path, &error))?;
            output.keep()?;
        }
        let options = ServeOptions {
            shared: self.shared,
            persistent: self.persistent,
        };
        let result = executor.block_on(serve(&listener, export, options, async {
            // A wait that fails ends the server: better than one that cannot be ended.
            let _ = exec::readable(stop.as_fd()).await;
        }));
        let closed = tool::close(&executor, &self.filename, &image);
        result.map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        closed
    }

    fn access(&self) -> Result<Access> {
        let cache = if self.no_cache { "none" } else { &self.cache };
        let discard = match self.discard.as_str() {
            "unmap" | "on" => DiscardMode::Unmap,
            "ignore" | "off" => DiscardMode::Ignore,
            other => return Err(bad("discard mode", other, "ignore, unmap")),
        };
        let detect_zeroes = match self.detect_zeroes.as_str() {
            "off" => DetectZeroes::Off,
            "on" => DetectZeroes::On,
            "unmap" if discard == DiscardMode::Ignore => {
                return Err(Error::new(
                    Kind::Usage,
                    "--detect-zeroes=unmap needs --discard=unmap",
                ));
            }
            "unmap" => DetectZeroes::Unmap,
            other => return Err(bad("detect-zeroes mode", other, "off, on, unmap")),
        };
        Ok(Access {
            writable: !self.read_only && self.load_snapshot.is_none(),
            cache: Some(tool::cache(cache)?),
            discard,
            detect_zeroes,
            ..Access::default()
        })
    }

    fn listen(&self) -> Result<(Listener, String)> {
        if let Some(path) = &self.socket {
            let listener = listen_unix(path)?;
            return Ok((
                Listener::Unix(listener),
                format!("nbd+unix:///{}?socket={}", self.export_name, path.display()),
            ));
        }
        let address = match self.bind.as_str() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            text => text.parse().ok(),
        };
        let Some(address) = address.filter(IpAddr::is_loopback) else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("'{}' is no loopback address", self.bind),
            )
            .hint(
                "there is neither TLS nor a password: carry 127.0.0.1 or a socket through ssh -L",
            ));
        };
        let fail = |error: std::io::Error| {
            Error::new(
                Kind::Io,
                format!("cannot listen on {address} port {}: {error}", self.port),
            )
        };
        let listener = TcpListener::bind((address, self.port)).map_err(fail)?;
        let local = listener.local_addr().map_err(fail)?;
        Ok((
            Listener::Tcp(listener),
            format!("nbd://{local}/{}", self.export_name),
        ))
    }
}

fn bad(what: &str, value: &str, known: &str) -> Error {
    Error::new(Kind::Usage, format!("Invalid {what} '{value}'")).hint(format!("one of {known}"))
}

/// Becomes readable when the process shall end.
fn stop_signals() -> Result<UnixStream> {
    let fail =
        |error: std::io::Error| Error::new(Kind::Io, format!("cannot wait for signals: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let end = theirs.try_clone().map_err(fail)?;
        signal_hook::low_level::pipe::register(signal, end).map_err(fail)?;
    }
    Ok(ours)
}

/// Listens on a path. A socket that nobody listens on any more is replaced; anything else is not.
fn listen_unix(path: &Path) -> Result<UnixListener> {
    let fail = |error: std::io::Error| Error::io("listen on", path, &error);
    if std::fs::symlink_metadata(path).is_ok() {
        if !socket::is_left(path) {
            return Err(Error::new(
                Kind::Exists,
                format!("{} is there already, and in use", path.display()),
            ));
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    UnixListener::bind(path).map_err(fail)
}

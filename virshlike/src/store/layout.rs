//! Where things are, for each connection: the system's store, a user's own, or one under another
//! root. Paths only; nothing here touches the disk.

use crate::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Which store a command talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Root's: `/etc/vm`, `/var/lib/vm`, `/var/log/vm`, `/run/vm`.
    System,
    /// A user's own, in the XDG directories.
    Session,
}

/// The environment that decides paths; a value so that tests need not change the process's.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Effective user id.
    pub uid: u32,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub data: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `VM_STORE_ROOT`: the whole store below this directory.
    pub root: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|value: &OsString| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            uid: rustix::process::geteuid().as_raw(),
            home: path("HOME"),
            config: path("XDG_CONFIG_HOME"),
            data: path("XDG_DATA_HOME"),
            state: path("XDG_STATE_HOME"),
            runtime: path("XDG_RUNTIME_DIR"),
            root: path("VM_STORE_ROOT"),
        }
    }
}

/// A parsed connection URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Whose store.
    pub scope: Scope,
    /// A store root from `?root=`, over `VM_STORE_ROOT`.
    pub root: Option<PathBuf>,
}

impl Connection {
    /// Parses `qemu:///system`, `vm:///session`, `vm:///system?root=/path`; without a URI, root
    /// gets the system's store and everybody else their own.
    ///
    /// # Errors
    /// Another scheme, path, host or parameter.
    pub fn parse(uri: Option<&str>, uid: u32) -> Result<Self> {
        let Some(uri) = uri.filter(|uri| !uri.is_empty()) else {
            let scope = if uid == 0 {
                Scope::System
            } else {
                Scope::Session
            };
            return Ok(Self { scope, root: None });
        };
        let bad = |why: String| {
            Error::new(Kind::Usage, format!("cannot connect to '{uri}'"))
                .cause(why)
                .hint("use qemu:///system, qemu:///session, vm:///system or vm:///session")
        };
        let (scheme, rest) = uri
            .split_once("://")
            .ok_or_else(|| bad("it is no connection URI".into()))?;
        if scheme.contains('+') {
            return Err(bad(
                "connections to other hosts are not built yet; run vm on that host".into(),
            ));
        }
        if !matches!(scheme, "qemu" | "vm") {
            return Err(bad(format!("the scheme '{scheme}' is not known")));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let scope = match path {
            "/system" => Scope::System,
            "/session" => Scope::Session,
            _ if !path.starts_with('/') => {
                return Err(bad("connections to other hosts need a transport".into()));
            }
            _ => return Err(bad(format!("the path '{path}' is not known"))),
        };
        let mut root = None;
        for parameter in query.split('&').filter(|part| !part.is_empty()) {
            match parameter.split_once('=') {
                Some(("root", value)) if value.starts_with('/') => {
                    root = Some(PathBuf::from(value));
                }
                _ => return Err(bad(format!("the parameter '{parameter}' is not known"))),
            }
        }
        Ok(Self { scope, root })
    }

    /// The URI as `vm uri` prints it.
    pub fn uri(&self) -> String {
        let scope = match self.scope {
            Scope::System => "system",
            Scope::Session => "session",
        };
        match &self.root {
            Some(root) => format!("vm:///{scope}?root={}", root.display()),
            None => format!("qemu:///{scope}"),
        }
    }
}

/// The directories of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Whose.
    pub scope: Scope,
    /// Definitions, `NAME.xml`.
    pub domains: PathBuf,
    /// Images, journals: what a store must not lose.
    pub lib: PathBuf,
    /// Logs, one directory per domain.
    pub log: PathBuf,
    /// What ends with the host's uptime.
    pub run: PathBuf,
}

impl Layout {
    /// The layout of a connection.
    ///
    /// # Errors
    /// A session without a home directory.
    pub fn new(connection: &Connection, environment: &Environment) -> Result<Self> {
        let root = connection.root.as_ref().or(environment.root.as_ref());
        if let Some(root) = root {
            return Ok(Self::below(root, connection.scope));
        }
        if connection.scope == Scope::System {
            return Ok(Self::below(Path::new("/"), Scope::System));
        }
        let home = |variable: &Option<PathBuf>, fallback: &str| {
            variable
                .clone()
                .filter(|path| path.is_absolute())
                .or_else(|| environment.home.as_ref().map(|home| home.join(fallback)))
                .ok_or_else(|| {
                    Error::new(Kind::Host, "cannot find the session store")
                        .cause("neither HOME nor the XDG directories are set")
                        .hint("set HOME, or use -c qemu:///system")
                })
        };
        Ok(Self {
            scope: Scope::Session,
            domains: home(&environment.config, ".config")?.join("vm/domains"),
            lib: home(&environment.data, ".local/share")?.join("vm"),
            log: home(&environment.state, ".local/state")?.join("vm/log"),
            run: home(&environment.runtime, ".cache")?.join("vm/run"),
        })
    }

    fn below(root: &Path, scope: Scope) -> Self {
        Self {
            scope,
            domains: root.join("etc/vm/domains"),
            lib: root.join("var/lib/vm"),
            log: root.join("var/log/vm"),
            run: root.join("run/vm"),
        }
    }

    /// The layout of the networks' own store: the same files, rules and locks in folders of their
    /// own.
    pub fn of_networks(&self) -> Self {
        Self {
            domains: self.domains.with_file_name("networks"),
            run: self.run.join("networks"),
            ..self.clone()
        }
    }

    /// What a network's DHCP server remembers; outlives the host's uptime, as leases do.
    pub fn leases(&self, uuid: Uuid) -> PathBuf {
        self.lib.join("networks").join(format!("{uuid}.leases"))
    }

    /// Where links to autostarted definitions are.
    pub fn autostart(&self) -> PathBuf {
        self.domains.join("autostart")
    }

    /// The definition of a domain.
    pub fn definition(&self, name: &str) -> PathBuf {
        self.domains.join(format!("{name}.xml"))
    }

    /// A domain's logs.
    pub fn logs(&self, name: &str) -> PathBuf {
        self.log.join(name)
    }

    /// Where the cores of guests that crashed are.
    pub fn dump(&self) -> PathBuf {
        self.lib.join("dump")
    }

    /// A domain's runtime directory.
    pub fn runtime(&self, uuid: Uuid) -> PathBuf {
        self.run.join(uuid.to_string())
    }

    /// Where locks live; empty files that mean nothing when nobody holds them.
    pub fn locks(&self) -> PathBuf {
        self.run.join("locks")
    }

    /// The index of UUIDs; see [`super::index`].
    pub fn index(&self) -> PathBuf {
        self.run.join("index")
    }

    /// A domain's journal.
    pub fn journal(&self, uuid: Uuid) -> PathBuf {
        self.lib.join("journal").join(format!("{uuid}.jsonl"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_users_have_their_own_default() {
        let root = Connection::parse(None, 0).unwrap();
        assert_eq!(root.uri(), "qemu:///system");
        let user = Connection::parse(None, 1000).unwrap();
        assert_eq!(user.uri(), "qemu:///session");
    }

    #[test]
    fn a_store_may_live_below_another_root() {
        let connection = Connection::parse(Some("vm:///system?root=/srv/demo"), 0).unwrap();
        let layout = Layout::new(&connection, &Environment::default()).unwrap();
        assert_eq!(
            layout.definition("a"),
            Path::new("/srv/demo/etc/vm/domains/a.xml")
        );
        assert_eq!(connection.uri(), "vm:///system?root=/srv/demo");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for uri in [
            "xen:///system",
            "qemu+ssh://kvm02/system",
            "qemu://kvm02/system",
            "qemu:///other",
            "vm:///system?color=1",
            "system",
        ] {
            assert!(Connection::parse(Some(uri), 0).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_session_follows_the_xdg_directories() {
        let environment = Environment {
            uid: 1000,
            home: Some("/home/a".into()),
            runtime: Some("/run/user/1000".into()),
            ..Environment::default()
        };
        let connection = Connection::parse(None, 1000).unwrap();
        let layout = Layout::new(&connection, &environment).unwrap();
        assert_eq!(layout.domains, Path::new("/home/a/.config/vm/domains"));
        assert_eq!(layout.run, Path::new("/run/user/1000/vm/run"));
    }
}

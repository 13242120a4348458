//! Sockets in the file system that outlived whoever listened on them.
//!
//! A path may have become another program's meanwhile: only a socket that the kernel says nobody
//! listens on is anybody's to remove. "It cannot be asked" is no such word.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Whether `path` itself, no link, is a socket that nobody listens on. Waits for nobody.
pub fn is_left(path: &Path) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.file_type().is_socket()) && is_refused(path)
}

/// Removes a socket that nobody listens on any more, and nothing else.
pub fn remove_left(path: &Path) {
    if is_left(path) {
        // One that cannot be removed is bound over by whoever wants the name next.
        let _ = fs::remove_file(path);
    }
}

fn is_refused(path: &Path) -> bool {
    // A socket's address has 107 bytes: a deeper one is reached through its folder.
    let folder = path.parent().and_then(|folder| fs::File::open(folder).ok());
    let (Some(folder), Some(name)) = (folder, path.file_name()) else {
        return false;
    };
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let asked = SocketAddrUnix::new(short).and_then(|address| {
        let kinds = [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM];
        let mut last = Ok(());
        for kind in kinds {
            let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
            last = connect(&socket, &address);
            // A socket of another kind is asked in its own way.
            if last != Err(Errno::PROTOTYPE) {
                break;
            }
        }
        last
    });
    asked == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn only_a_socket_without_a_listener_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let listener = UnixListener::bind(at("stream")).unwrap();
        let datagrams = UnixDatagram::bind(at("datagram")).unwrap();
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("stream"), at("link")).unwrap();
        for name in ["stream", "datagram", "file", "link", "nothing"] {
            assert!(!is_left(&at(name)), "{name}");
        }
        drop((listener, datagrams));
        for name in ["stream", "datagram", "file", "link"] {
            remove_left(&at(name));
        }
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        let mut left: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        left.sort();
        assert_eq!(left, ["file", "link"]);
    }

    #[test]
    fn a_listener_that_accepts_nobody_is_still_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        // Until there is no room for another one: asking must not wait, nor take that for an end.
        for _ in 0..5000 {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            if connect(&socket, &SocketAddrUnix::new(&path).unwrap()).is_err() {
                break;
            }
            waiting.push(socket);
        }
        assert!(!is_left(&path));
    }
}

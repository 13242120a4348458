//! Tap devices, the host's end of a guest's network card: made, set up and plugged into a bridge.
//!
//! A tap that we make is not persistent: it is gone with the last descriptor, so with the guest's
//! process, however that ends. The kernel documents the calls in networking/tuntap and netdevice(7).

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const TUN: &str = "/dev/net/tun";
/// Makes a tap, or opens a queue of one: `_IOW('T', 202, int)`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// Adds a port to a bridge; from linux/sockios.h.
const SIOCBRADDIF: libc::c_ulong = 0x89a2;
const HEADER_FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// The queues of a tap.
#[derive(Debug)]
pub struct Tap {
    /// The interface's name.
    pub name: String,
    /// One descriptor per queue.
    pub queues: Vec<OwnedFd>,
}

impl Tap {
    /// Opens the tap `name`, and makes it where it does not exist; `%d` in the name becomes the
    /// first free number.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no right to make it, a name that is too long or of another interface, or
    /// a tap that another process has.
    pub fn open(name: &str, queues: u16) -> io::Result<Self> {
        let flags = match queues {
            0 | 1 => HEADER_FLAGS,
            _ => HEADER_FLAGS | libc::IFF_MULTI_QUEUE,
        };
        let mut name = name.to_string();
        let mut opened = Vec::new();
        for _ in 0..queues.max(1) {
            let fd = rustix::fs::open(TUN, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            let mut request = request(&name)?;
            // The flags of taps fit 16 bits.
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
            done(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
            name = name_of(&request);
            opened.push(fd);
        }
        Ok(Self {
            name,
            queues: opened,
        })
    }

    /// Gives the host's end an address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = request(&self.name)?;
        let mut address = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (place, byte) in address.sa_data.iter_mut().zip(mac) {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_hwaddr = address;
        call(libc::SIOCSIFHWADDR, &mut request)
    }

    /// Sets the MTU of the host's end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
        call(libc::SIOCSIFMTU, &mut request)
    }

    /// Plugs it into a bridge.
    ///
    /// # Errors
    /// What the kernel says, such as that there is no such bridge.
    pub fn join(&self, bridge: &str) -> io::Result<()> {
        let mut own = request(&self.name)?;
        call(libc::SIOCGIFINDEX, &mut own)?;
        let mut request = request(bridge)?;
        // SAFETY: SIOCGIFINDEX fills this member of the union; any bits are a value of it.
        request.ifr_ifru.ifru_ifindex = unsafe { own.ifr_ifru.ifru_ifindex };
        call(SIOCBRADDIF, &mut request)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bring_up(&self) -> io::Result<()> {
        let mut request = request(&self.name)?;
        call(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS fills this member of the union; any bits are a value of it.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        call(libc::SIOCSIFFLAGS, &mut request)
    }
}

/// The MTU of an interface; also the way to find out whether there is one.
///
/// # Errors
/// `ENODEV` where there is none, and what else the kernel says.
pub fn mtu(interface: &str) -> io::Result<u16> {
    let mut request = request(interface)?;
    call(libc::SIOCGIFMTU, &mut request)?;
    // SAFETY: SIOCGIFMTU fills this member of the union; any bits are a value of it.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// A request about the interface `name`.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data, for which zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the name is longer than {} bytes", libc::IFNAMSIZ - 1),
        ));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks the network stack, which any socket reaches.
fn call(what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: each of the requests that come here reads or writes an ifreq, which `request` is.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), what as libc::Ioctl, &raw mut *request) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_before_the_kernel_is_asked() {
        let error = request("a-name-of-16-chr").err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("the name is longer than 15 bytes"));
        assert_eq!(name_of(&request("vnet%d").expect("short")), "vnet%d");
        assert_eq!(
            mtu("no-such-if").err().and_then(|e| e.raw_os_error()),
            Some(libc::ENODEV)
        );
        assert!(mtu("lo").is_ok());
    }
}

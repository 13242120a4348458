//! Real taps, where this host lets us make one.

use super::*;
use std::fs::File;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_MULTI_QUEUE: i16 = 0x0100;

/// A tap that goes with its descriptor; `None` where that is not allowed.
fn make(name: &str, flags: i16) -> Option<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .ok()?;
    // SAFETY: ifreq is plain data, for which zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    (made == 0).then(|| file.into())
}

#[test]
fn taps_with_virtio_headers_are_taken_and_set() {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    let name = format!("vmt{}", std::process::id());
    let (Some(first), Some(second)) = (make(&name, flags), make(&name, flags)) else {
        println!("skipped: this host does not let us make a tap");
        return;
    };
    let (first, second) = (Tap::new(first).unwrap(), Tap::new(second).unwrap());
    let all = offload::CHECKSUM | offload::TSO4 | offload::TSO6;
    first.set_offload(all).unwrap();
    first.set_offload(0).unwrap();
    assert!(first.set_offload(1 << 30).is_err(), "no such offload");
    second.attach(false).unwrap();
    assert!(second.attach(false).is_err(), "it is off already");
    second.attach(true).unwrap();
    let error = first.receive(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn anything_else_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(matches!(
        Tap::new(file.into()),
        Err(TapError::Kernel { .. })
    ));
    let name = format!("vmu{}", std::process::id());
    match make(&name, IFF_TAP | IFF_NO_PI) {
        Some(plain) => assert!(matches!(Tap::new(plain), Err(TapError::Flags(_)))),
        None => println!("skipped: this host does not let us make a tap"),
    }
}

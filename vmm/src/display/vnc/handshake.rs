//! From the first byte to the first message (RFC 6143 §7.1 to §7.3).
//!
//! ```text
//! we: RFB 003.008   client: its version   we: security types   client: its choice
//!   VNC: we: challenge   client: answer      we: right or wrong
//! client: alone or not   we: size, pixel format, name
//! ```
//!
//! What a program says has to come soon; the answer may take as long as somebody types a password.

use super::auth;
use super::house::{House, Rules};
use super::pixels::Format;
use super::socket::{Gone, Incoming, Socket};
use devices::virtio::worker::{First, race};
use images::exec::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const VERSION: &[u8] = b"RFB 003.008\n";
const NONE: u8 = 1;
const VNC: u8 = 2;
/// How long somebody waits who did not know the password.
const PENALTY: Duration = Duration::from_secs(1);

/// Versions of the protocol that differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V3_3,
    V3_7,
    V3_8,
}

/// What a client said about others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Init {
    /// It does not mind them.
    pub(super) shared: bool,
}

/// Greets a client and finds out whether it may come in.
pub(super) async fn enter(
    socket: &Socket,
    incoming: &mut Incoming<'_>,
    rules: &Rules,
) -> Result<Init, Gone> {
    let patience = rules.patience;
    socket.write(VERSION).await?;
    let version = version(&in_time(patience, incoming.array::<12>()).await?)?;
    let security = match rules.password {
        Some(_) => VNC,
        None => NONE,
    };
    if version == Version::V3_3 {
        socket.write(&u32::from(security).to_be_bytes()).await?;
    } else {
        socket.write(&[1, security]).await?;
        let [chosen] = in_time(patience, incoming.array()).await?;
        if chosen != security {
            fail(socket, version, "that security type was not offered").await?;
            return Err(Gone("it chose a security type that was not offered"));
        }
    }
    if let Some(password) = &rules.password {
        check(socket, incoming, version, (password, rules)).await?;
    } else if version == Version::V3_8 {
        socket.write(&[0; 4]).await?;
    }
    let [shared] = in_time(patience, incoming.array()).await?;
    Ok(Init {
        shared: shared != 0,
    })
}

/// What is waited for, unless it takes longer than `most`.
pub(super) async fn in_time<T>(
    most: Duration,
    what: impl Future<Output = Result<T, Gone>>,
) -> Result<T, Gone> {
    // The thread's stack is small, and what is waited for is moved on its way.
    match race(Box::pin(what), sleep(most)).await {
        First::A(came) => came,
        First::B(()) => Err(Gone("it took too long to come in")),
    }
}

/// The version in a client's first line; unknown ones count as 3.3, as RFC 6143 §7.1.1 has it.
fn version(line: &[u8; 12]) -> Result<Version, Gone> {
    let [
        b'R',
        b'F',
        b'B',
        b' ',
        b'0',
        b'0',
        b'3',
        b'.',
        minor @ ..,
        b'\n',
    ] = line
    else {
        return Err(Gone("it does not speak RFB 3"));
    };
    match minor {
        b"007" => Ok(Version::V3_7),
        // Some say 3.889 and mean 3.8.
        b"008" | b"889" => Ok(Version::V3_8),
        _ => Ok(Version::V3_3),
    }
}

/// Asks for the password.
async fn check(
    socket: &Socket,
    incoming: &mut Incoming<'_>,
    version: Version,
    (password, rules): (&str, &Rules),
) -> Result<(), Gone> {
    let mut challenge = [0; auth::LENGTH];
    // Sixteen bytes come at once, or the kernel has none.
    let got = rustix::rand::getrandom(&mut challenge, rustix::rand::GetRandomFlags::empty());
    if got != Ok(auth::LENGTH) {
        return Err(Gone("the host has no random numbers"));
    }
    socket.write(&challenge).await?;
    let answer = in_time(rules.typing, incoming.array()).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let expired = rules
        .password_until
        .is_some_and(|until| now.is_ok_and(|now| now.as_secs() > until));
    // An empty password is libvirt's word for nobody.
    if expired
        || password.is_empty()
        || !auth::equal(answer, auth::answer(password.as_bytes(), challenge))
    {
        sleep(PENALTY).await;
        let words = match expired {
            true => "the password has expired",
            false => "the password is wrong",
        };
        fail(socket, version, words).await?;
        return Err(Gone("it does not know the password"));
    }
    socket.write(&[0; 4]).await
}

/// Says that the client may not come in, and why where there is a place for it.
async fn fail(socket: &Socket, version: Version, why: &str) -> Result<(), Gone> {
    let mut bytes = 1_u32.to_be_bytes().to_vec();
    if version == Version::V3_8 {
        bytes.extend(u32::try_from(why.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(why.as_bytes());
    }
    socket.write(&bytes).await
}

/// Tells a client that is let in what it sees.
pub(super) async fn welcome(
    socket: &Socket,
    house: &House,
    size: (u32, u32),
    format: Format,
) -> Result<(), Gone> {
    let mut bytes = Vec::new();
    for side in [size.0, size.1] {
        bytes.extend(u16::try_from(side).unwrap_or(u16::MAX).to_be_bytes());
    }
    bytes.extend(format.to_bytes());
    let name = house.rules.name.as_bytes();
    bytes.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(name);
    socket.write(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_specification_says() {
        for (line, expected) in [
            (b"RFB 003.003\n", Ok(Version::V3_3)),
            (b"RFB 003.005\n", Ok(Version::V3_3)),
            (b"RFB 003.007\n", Ok(Version::V3_7)),
            (b"RFB 003.008\n", Ok(Version::V3_8)),
            (b"RFB 003.889\n", Ok(Version::V3_8)),
            (b"RFB 004.000\n", Err(())),
            (b"GET / HTTP/1", Err(())),
        ] {
            assert_eq!(version(line).map_err(drop), expected);
        }
    }
}

//! Coming in: who may stay, who has to go, and the way through a WebSocket.

use super::*;
use crate::display::vnc::house::{MOST_ENTERING, MOST_OF_ADDRESS};
use std::net::{Shutdown, TcpStream};
use tungstenite::client::{IntoClientRequest, client};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::{Message, WebSocket};

/// A connected client that has said what it wants.
fn come(house: &House, shared: u8) -> Client {
    let mut client = house.connect();
    client.greet(b"RFB 003.008\n");
    assert_eq!(client.read(2), [1, 1]);
    client.send(&[1, shared]);
    assert_eq!(client.read(4), [0; 4]);
    client
}

/// Whether a client that has said what it wants is told what it sees.
fn is_welcome(client: &mut Client) -> bool {
    client.socket.read_exact(&mut [0; 4]).is_ok()
}

#[test]
fn who_wants_to_be_alone_ends_the_others_and_keeps_them_out() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let (mut first, mut second) = (house.enter(&[0]), house.enter(&[0]));
    // This one has not come in, and may still.
    let mut slow = house.connect();
    slow.greet(b"RFB 003.008\n");
    slow.read(2);
    let mut alone = come(&house, 0);
    alone.read_init();
    assert!(first.is_out() && second.is_out());
    assert!(come(&house, 1).is_out(), "somebody is alone");
    slow.send(&[1, 0]);
    slow.read(4);
    slow.read_init();
    assert!(alone.is_out(), "the next one wants to be alone");
    slow.request(false);
    slow.update();
    // When that has gone, others may come in again. It goes in its own time.
    drop(slow);
    let deadline = Instant::now() + DEADLINE;
    while !is_welcome(&mut come(&house, 1)) {
        assert!(
            Instant::now() < deadline,
            "nobody is let in after the one who was alone has left"
        );
    }
}

#[test]
fn where_all_share_nobody_is_alone_and_where_nobody_looks_all_are_let_in() {
    let house = House::new(None, SharePolicy::ForceShared);
    let mut there = house.enter(&[0]);
    assert!(come(&house, 0).is_out());
    there.request(false);
    there.update();
    let house = House::new(None, SharePolicy::Ignore);
    let mut there = house.enter(&[0]);
    let mut alone = come(&house, 0);
    alone.read_init();
    for client in [&mut there, &mut alone] {
        client.request(false);
        client.update();
    }
}

#[test]
fn who_says_nothing_makes_room_for_newcomers() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let mut inside = house.enter(&[0]);
    let linger = |socket: TcpStream| {
        let mut client = Client::on(socket);
        assert_eq!(client.read(12), b"RFB 003.008\n");
        client
    };
    let tcp = || linger(house.tcp());
    let mut lingering: Vec<_> = (0..MOST_OF_ADDRESS + 2).map(|_| tcp()).collect();
    assert!(lingering[0].is_out() && lingering[1].is_out());
    // The others are still listened to.
    let mut third = lingering.swap_remove(2);
    third.send(b"RFB 003.008\n");
    assert_eq!(third.read(2), [1, 1]);
    third.send(&[1, 1]);
    third.read(4);
    third.read_init();
    // Sockets without an address fill the house alone, and end the oldest of all.
    let mut local: Vec<_> = (0..MOST_ENTERING)
        .map(|_| {
            let mut client = house.connect();
            client.read(12);
            client
        })
        .collect();
    assert!(lingering.iter_mut().skip(2).all(Client::is_out));
    assert!(house.connect().read(12).len() == 12 && local[0].is_out());
    for client in [&mut inside, &mut third] {
        client.request(false);
        client.update();
    }
}

#[test]
fn a_handshake_has_an_end() {
    let house = House::with(Rules {
        name: "web01".into(),
        password: None,
        password_until: None,
        share: SharePolicy::AllowExclusive,
        patience: Duration::from_millis(50),
        typing: DEADLINE,
    });
    let mut silent = house.connect();
    assert_eq!(silent.read(12), b"RFB 003.008\n");
    assert!(silent.is_out());
    // So has the one before it.
    let mut silent = Client::on(house.unix("web"));
    assert!(silent.is_out());
}

#[test]
fn a_password_may_be_typed_slowly() {
    let rules = |patience, typing| Rules {
        name: "web01".into(),
        password: Some("geheim".into()),
        password_until: None,
        share: SharePolicy::AllowExclusive,
        patience,
        typing,
    };
    let patience = Duration::from_millis(300);
    let house = House::with(rules(patience, DEADLINE));
    let slowly = || -> std::io::Result<bool> {
        let mut client = house.unix("vnc");
        client.read_exact(&mut [0; 12])?;
        client.write_all(b"RFB 003.008\n\x02")?;
        let mut challenge = [0; auth::LENGTH];
        client.read_exact(&mut [0; 2])?;
        client.read_exact(&mut challenge)?;
        std::thread::sleep(2 * patience);
        client.write_all(&auth::answer(b"geheim", challenge))?;
        let mut verdict = [1; 4];
        client.read_exact(&mut verdict)?;
        Ok(verdict == [0; 4])
    };
    // What is not typed has to come soon, and may be late on a busy host.
    let begun = Instant::now();
    while !matches!(slowly(), Ok(true)) {
        assert!(begun.elapsed() < DEADLINE, "nobody can type that fast");
    }
    // But not for ever.
    let house = House::with(rules(DEADLINE, Duration::from_millis(50)));
    let mut client = house.connect();
    client.greet(b"RFB 003.008\n");
    client.read(2);
    client.send(&[2]);
    client.read(auth::LENGTH);
    assert!(client.is_out());
}

/// The bytes of a WebSocket's messages, as if they came without.
struct Content {
    socket: WebSocket<UnixStream>,
    read: Vec<u8>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.read.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.read = bytes.to_vec(),
                Ok(Message::Pong(_)) => {}
                Ok(_) => return Ok(0),
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
        let count = buffer.len().min(self.read.len());
        buffer[..count].copy_from_slice(&self.read[..count]);
        self.read.drain(..count);
        Ok(count)
    }
}

impl Write for Content {
    /// Two messages and a ping for what is said at once: they are no units.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let ping = Message::Ping(Vec::new().into());
        for message in [
            Message::binary(first.to_vec()),
            ping,
            Message::binary(rest.to_vec()),
        ] {
            self.socket.send(message).map_err(std::io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Opens a WebSocket that asks for these subprotocols; the one that was chosen, or the refusal's status.
fn open(house: &House, protocols: Option<&'static str>) -> Result<(Client, bool), StatusCode> {
    let mut request = "ws://web01/websockify".into_client_request().unwrap();
    if let Some(names) = protocols {
        let value = HeaderValue::from_static(names);
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", value);
    }
    match client(request, house.unix("web")) {
        Ok((socket, response)) => {
            let chosen = response.headers().contains_key("Sec-WebSocket-Protocol");
            let read = Vec::new();
            Ok((Client::on(Content { socket, read }), chosen))
        }
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            Err(response.status())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_web_page_sees_the_same_picture() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    paint(&house.display, 333, 222);
    let whole = house.display.copy(Rect::of(333, 222));
    for (protocols, encoding) in [(None, 0), (Some("binary"), 16)] {
        let (client, chosen) = open(&house, protocols).expect("a WebSocket");
        assert_eq!(chosen, protocols.is_some());
        let mut client = house.let_in(client, &[encoding]);
        for _ in 0..3 {
            client.request(false);
            assert_eq!(assemble(&client.update(), 333, 222), whole);
        }
    }
    assert_eq!(
        open(&house, Some("base64")).err(),
        Some(StatusCode::BAD_REQUEST)
    );
}

#[test]
fn pages_of_other_hosts_need_a_password() {
    let ask = |house: &House, origin: Option<&'static str>| {
        let mut request = "ws://Web01:5700/".into_client_request().unwrap();
        if let Some(origin) = origin {
            let value = HeaderValue::from_static(origin);
            request.headers_mut().insert("Origin", value);
        }
        match client(request, house.unix("web")) {
            Ok(_) => StatusCode::SWITCHING_PROTOCOLS,
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                answer.status()
            }
            Err(error) => panic!("{error}"),
        }
    };
    let foreign = [
        "https://example.org",
        "http://web01.example.org",
        "http://example.org/web01",
        "http://web01@example.org",
        "null",
    ];
    let house = House::new(None, SharePolicy::AllowExclusive);
    for origin in [None, Some("http://web01"), Some("https://WEB01:8080")] {
        let status = ask(&house, origin);
        assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS, "{origin:?}");
    }
    for origin in foreign {
        let status = ask(&house, Some(origin));
        assert_eq!(status, StatusCode::FORBIDDEN, "{origin}");
    }
    let house = House::new(Some("geheim"), SharePolicy::AllowExclusive);
    for origin in foreign {
        let status = ask(&house, Some(origin));
        assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS, "{origin}");
    }
}

#[test]
fn who_goes_without_a_word_is_noticed() {
    use rustix::net::sockopt;
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let _theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = OwnedFd::from(listener.accept().unwrap().0);
    crate::display::vnc::watch(&ours).unwrap();
    assert!(sockopt::socket_keepalive(&ours).unwrap());
    let seconds = Duration::from_secs;
    assert_eq!(sockopt::tcp_keepidle(&ours), Ok(seconds(30)));
    assert_eq!(sockopt::tcp_keepintvl(&ours), Ok(seconds(10)));
    assert_eq!(sockopt::tcp_keepcnt(&ours), Ok(3));
    assert_eq!(sockopt::tcp_user_timeout(&ours), Ok(60_000));
    // A Unix socket is watched by the kernel.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(crate::display::vnc::watch(&ours.into()).is_err());
}

#[test]
fn many_small_messages_at_once_are_all_heard() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let (client, _) = open(&house, None).expect("a WebSocket");
    let mut client = house.let_in(client, &[0]);
    // Pointers and the start of a request, in messages that end anywhere.
    let pointers = [5, 0, 0, 1, 0, 1].repeat(30_000);
    client.send(&[&pointers[..], &[3, 0, 0]].concat());
    client.send(&[0, 0, 0, 0, 0xff, 0xff, 0xff]);
    assert!(!client.update().is_empty());
}

#[test]
fn what_is_no_websocket_ends_its_client_only() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let (client, _) = open(&house, None).expect("a WebSocket");
    let mut there = house.let_in(client, &[0]);
    for request in [
        &b"RFB 003.008\n\n\n\n"[..],
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: web01\r\n\r\n",
    ] {
        let mut client = Client::on(house.unix("web"));
        client.send(request);
        let mut answer = Vec::new();
        // It may be told what is wrong before it is left.
        let _ = client.socket.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 101"));
    }
    let request = "ws://web01/".into_client_request().unwrap();
    let (mut text, _) = tungstenite::client(request, house.unix("web")).expect("a WebSocket");
    assert!(matches!(text.read(), Ok(Message::Binary(hello)) if hello.starts_with(b"RFB ")));
    text.send(Message::text("RFB 003.008\n")).unwrap();
    assert!(text.read().is_err());
    there.request(false);
    there.update();
}

#[test]
fn pings_of_one_who_does_not_read_are_not_kept() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let request = "ws://web01/".into_client_request().unwrap();
    let (mut lazy, _) = client(request, house.unix("web")).expect("a WebSocket");
    // Once the answers have nowhere to go, it is read on or left, but never held for ever.
    let mut quick = house.enter(&[0]);
    let mut sent = 0_u32;
    for round in 0..40_u32 {
        for _ in 0..500 {
            // What tells one ping, and its answer, from the others.
            let number = sent.to_be_bytes().repeat(25);
            if lazy.send(Message::Ping(number.into())).is_err() {
                break;
            }
            sent += 1;
        }
        if round % 10 == 0 {
            quick.request(false);
            quick.update();
        }
    }
    // It hears the end of what is said, and ends; until then what it kept comes.
    let _ = lazy.get_ref().shutdown(Shutdown::Write);
    let mut answers = 0;
    while let Ok(message) = lazy.read() {
        answers += usize::from(matches!(message, Message::Pong(_)));
    }
    // Of most pings, nothing is there: the socket's buffer holds some hundreds of answers.
    assert!(sent >= 500, "{sent} pings were read");
    assert!(
        answers < 5000,
        "{answers} answers to {sent} pings were kept"
    );
}

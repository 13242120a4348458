//! RFB in the binary messages of a WebSocket (RFC 6455), for viewers that are web pages.
//!
//! A message is no unit of RFB: one may hold part of what is said, or more than one thing. What a client
//! may make us hold is bounded: one message of its, [`PIECE`] bytes of ours, and answers to its pings.
//!
//! A browser lets any page open a WebSocket to any host, and says which page it is in `Origin`. Where no
//! password is asked for, only pages of the host that was connected to may come in: otherwise every page
//! that somebody looks at on this host could see and use the guest. What is no browser sends no `Origin`.

use super::socket::{Gone, Raw};
use images::exec::yield_now;
use std::cell::RefCell;
use std::io::ErrorKind;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tungstenite::http::{HeaderValue, StatusCode, Uri};
use tungstenite::protocol::{Message, WebSocketConfig};
use tungstenite::{Error, WebSocket, accept_hdr_with_config};

/// Longest message of a client: viewers send what waits, which is little but for a clipboard.
const LONGEST: usize = 256 << 10;
/// Longest message to a client.
const PIECE: usize = 64 << 10;
/// Bytes that may wait to be written: a piece, its head, and answers to pings.
const MOST_WAITING: usize = PIECE + (4 << 10);
/// The subprotocol whose messages are RFB as it is; older viewers ask for it by name.
const BINARY: &str = "binary";

/// A WebSocket that is open.
pub(super) struct Web {
    raw: Raw,
    socket: RefCell<WebSocket<Raw>>,
}

impl Web {
    /// Hears the request of HTTP and answers it; `strict` refuses pages of other hosts.
    pub(super) async fn accept(raw: Raw, strict: bool) -> Result<Self, Gone> {
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(MOST_WAITING)
            .max_message_size(Some(LONGEST))
            .max_frame_size(Some(LONGEST));
        #[expect(clippy::result_large_err, reason = "the type of the callback")]
        let choose = |request: &Request, response: Response| match strict && is_foreign(request) {
            true => Err(foreign()),
            false => choose(request, response),
        };
        let mut greeting = accept_hdr_with_config(raw.clone(), choose, Some(config));
        loop {
            match greeting {
                Ok(socket) => {
                    let socket = RefCell::new(socket);
                    return Ok(Self { raw, socket });
                }
                Err(HandshakeError::Failure(_)) => {
                    return Err(Gone("it does not open a WebSocket for RFB"));
                }
                // It waits for the request: the answer fits any socket's buffer.
                Err(HandshakeError::Interrupted(half)) => {
                    raw.readable().await?;
                    greeting = half.handshake();
                }
            }
        }
    }

    /// Waits for bytes and appends them.
    pub(super) async fn read(&self, buffer: &mut Vec<u8>) -> Result<(), Gone> {
        loop {
            let message = self.socket.borrow_mut().read();
            match message {
                Ok(Message::Binary(bytes)) if !bytes.is_empty() => {
                    buffer.extend_from_slice(&bytes);
                    return Ok(());
                }
                Ok(Message::Text(_)) => return Err(Gone("it says text, which RFB is not")),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return Err(Gone("it has left"));
                }
                // Pings without end share the thread with the other clients.
                Ok(_) => yield_now().await,
                Err(error) if blocks(&error) => self.raw.readable().await?,
                Err(_) => return Err(Gone("its WebSocket failed")),
            }
        }
    }

    /// Writes all of `bytes`, as fast as the client reads.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        for piece in bytes.chunks(PIECE) {
            // What waited has been written, so that there is room; a piece that does not go at once waits.
            self.flush().await?;
            let message = Message::binary(piece.to_vec());
            let written = self.socket.borrow_mut().write(message);
            match written {
                Err(error) if !blocks(&error) => return Err(Gone("it does not read any more")),
                _ => {}
            }
        }
        self.flush().await
    }

    async fn flush(&self) -> Result<(), Gone> {
        loop {
            let flushed = self.socket.borrow_mut().flush();
            match flushed {
                Ok(()) => return Ok(()),
                Err(error) if blocks(&error) => self.raw.writable().await?,
                Err(_) => return Err(Gone("it does not read any more")),
            }
        }
    }
}

fn blocks(error: &Error) -> bool {
    let kinds = [ErrorKind::WouldBlock, ErrorKind::Interrupted];
    matches!(error, Error::Io(error) if kinds.contains(&error.kind()))
}

/// Whether a page of another host asks: one whose `Origin` is not where it connects to. Ports may differ,
/// since another server gives out the pages. A page whose own name is made to point here (DNS rebinding)
/// passes: against that only a password helps.
fn is_foreign(request: &Request) -> bool {
    let headers = request.headers();
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return false;
    };
    let host_of = |value: &HeaderValue| {
        let uri: Uri = value.to_str().ok()?.parse().ok()?;
        uri.host().map(str::to_ascii_lowercase)
    };
    let own = headers.get(HOST).and_then(host_of);
    origins.next().is_some() || own.is_none() || host_of(origin) != own
}

fn foreign() -> ErrorResponse {
    let words = "this page comes from another host: give the display a password (passwd='...')\n";
    let mut refusal = ErrorResponse::new(Some(words.into()));
    *refusal.status_mut() = StatusCode::FORBIDDEN;
    refusal
}

/// Takes the subprotocol `binary`, or none where none is asked for.
#[expect(clippy::result_large_err, reason = "the type of the callback")]
fn choose(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let asked = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut asked = asked
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .peekable();
    if asked.peek().is_none() {
        return Ok(response);
    }
    if !asked.any(|name| name == BINARY) {
        let mut refusal = ErrorResponse::new(Some("the subprotocol here is 'binary'\n".into()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Err(refusal);
    }
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BINARY));
    Ok(response)
}

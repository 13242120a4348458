//! What a request does to the image, and its reply.
use super::connection::{Connection, Reply};
use super::proto::{self, Chunk, Code, Command, Refusal, Request, Terms};
use crate::error::{Error, Result};
use crate::storage::IoBuf;

/// Extents in one answer; the client asks again for the rest.
const MAX_EXTENTS: usize = 4096;
/// Memory of such an answer.
const STATUS_COST: u64 = (MAX_EXTENTS * 16) as u64;
/// What a CACHE reads at a time.
const CACHE_PIECE: u64 = 1 << 20;
/// The range has no data of its own.
const HOLE: u32 = 1;
/// The range reads as zeroes.
const ZERO: u32 = 2;

/// Bytes of memory that a command takes while it is at work or its reply waits.
pub(super) fn cost(command: Command, request: &Request) -> u64 {
    match command {
        Command::Read { .. } | Command::Write { .. } => request.len.into(),
        Command::BlockStatus { .. } => STATUS_COST,
        Command::Cache => CACHE_PIECE,
        _ => 0,
    }
}

/// The reply to a request that is not carried out.
pub(super) fn refused(terms: &Terms, request: &Request, refusal: Refusal) -> Reply {
    failed(terms, request.cookie, refusal.code, refusal.text)
}

fn failed(terms: &Terms, cookie: u64, code: Code, text: &str) -> Reply {
    let head = if terms.structured {
        proto::chunk(cookie, Chunk::Error(code, text))
    } else {
        proto::simple_reply(cookie, code as u32)
    };
    Reply { head, data: None }
}

/// Carries a request out. `data` is what it writes.
pub(super) async fn perform(
    connection: &Connection,
    request: &Request,
    command: Command,
    data: Option<IoBuf>,
) -> Reply {
    let terms = connection.terms();
    let (cookie, len) = (request.cookie, u64::from(request.len));
    let at = connection.export().offset + request.offset;
    let image = &connection.export().image;
    let result = match command {
        Command::Read { whole } => return read(connection, request, at, whole).await,
        Command::BlockStatus { one } => return status(connection, request, at, one).await,
        Command::Write { fua } => match write(connection, at, data).await {
            Ok(()) => durable(connection, fua).await,
            Err(error) => Err(error),
        },
        Command::Flush => image.flush().await,
        Command::Trim { fua } => match image.discard(at, len).await {
            Ok(()) => durable(connection, fua).await,
            Err(error) => Err(error),
        },
        Command::WriteZeroes { fua, unmap, fast } => {
            match zero(connection, at, len, (unmap, fast)).await {
                Ok(true) => durable(connection, fua).await,
                Ok(false) => {
                    let text = "zeroing is not faster than writing here";
                    return failed(&terms, cookie, Code::NotSupported, text);
                }
                Err(error) => Err(error),
            }
        }
        Command::Cache => cache(connection, at, len).await,
        Command::Disconnect => Ok(()),
    };
    match result {
        Ok(()) => succeeded(&terms, cookie),
        Err(error) => wrong(&terms, cookie, &error),
    }
}

fn succeeded(terms: &Terms, cookie: u64) -> Reply {
    let head = if terms.structured {
        proto::chunk(cookie, Chunk::None)
    } else {
        proto::simple_reply(cookie, 0)
    };
    Reply { head, data: None }
}

fn wrong(terms: &Terms, cookie: u64, error: &Error) -> Reply {
    let code = Code::of_errno(error.errno());
    failed(terms, cookie, code, &error.to_string())
}

async fn write(connection: &Connection, at: u64, data: Option<IoBuf>) -> Result<()> {
    if let Some(data) = data {
        let data = connection.export().image.write_again(at, data).await?;
        connection.keep(data);
    }
    Ok(())
}

async fn durable(connection: &Connection, fua: bool) -> Result<()> {
    if fua {
        connection.export().image.flush().await
    } else {
        Ok(())
    }
}

/// False if it would have to be written as data and the client does not want that.
async fn zero(connection: &Connection, at: u64, len: u64, how: (bool, bool)) -> Result<bool> {
    let image = &connection.export().image;
    let (unmap, fast) = how;
    if fast {
        return image.write_zeroes_fast(at, len, unmap).await;
    }
    image.write_zeroes(at, len, unmap).await.map(|()| true)
}

async fn read(connection: &Connection, request: &Request, at: u64, whole: bool) -> Reply {
    let terms = connection.terms();
    let cookie = request.cookie;
    let image = &connection.export().image;
    let (offset, len) = (request.offset, request.len);
    if terms.structured && len == 0 {
        return succeeded(&terms, cookie);
    }
    if terms.structured && !whole && matches!(image.reads_zero(at, len.into()).await, Ok(true)) {
        let head = proto::chunk(cookie, Chunk::Hole { offset, len });
        return Reply { head, data: None };
    }
    let buf = connection.buffer(len as usize);
    match image.read_again(at, buf).await {
        Ok(data) => {
            let head = if terms.structured {
                proto::chunk(cookie, Chunk::Data { offset, len })
            } else {
                proto::simple_reply(cookie, 0)
            };
            Reply {
                head,
                data: Some(data),
            }
        }
        Err(error) => wrong(&terms, cookie, &error),
    }
}

async fn status(connection: &Connection, request: &Request, at: u64, one: bool) -> Reply {
    let terms = connection.terms();
    let most = if one { 1 } else { MAX_EXTENTS };
    match extents(connection, at, request.len, most).await {
        Ok(extents) => Reply {
            head: proto::chunk(request.cookie, Chunk::Status(&extents)),
            data: None,
        },
        Err(error) => wrong(&terms, request.cookie, &error),
    }
}

async fn extents(
    connection: &Connection,
    at: u64,
    len: u32,
    most: usize,
) -> Result<Vec<(u32, u32)>> {
    let image = &connection.export().image;
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut done: u32 = 0;
    while done < len {
        let left = len - done;
        let entry = image
            .block_status(at + u64::from(done), left.into())
            .await?;
        let n = u32::try_from(entry.length).map_or(left, |n| n.clamp(1, left));
        let hole = if entry.data { 0 } else { HOLE };
        let flags = hole | if entry.zero { ZERO } else { 0 };
        let full = found.len() == most;
        match found.last_mut() {
            Some((last, same)) if *same == flags => *last += n,
            _ if full => break,
            _ => found.push((n, flags)),
        }
        done += n;
    }
    Ok(found)
}

/// Reads a range into the host's page cache; without a page cache there is nothing to do.
async fn cache(connection: &Connection, at: u64, len: u64) -> Result<()> {
    let image = &connection.export().image;
    if image.options().cache.direct() {
        return Ok(());
    }
    let mut buf = connection.buffer(len.min(CACHE_PIECE) as usize);
    let mut done = 0;
    while done < len {
        let n = (len - done).min(CACHE_PIECE);
        if n != buf.len() as u64 {
            buf = connection.buffer(n as usize);
        }
        if !image.reads_zero(at + done, n).await? {
            buf = image.read_again(at + done, buf).await?;
        }
        done += n;
    }
    Ok(())
}

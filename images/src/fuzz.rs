//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer.
//! They must not panic, loop, or take memory out of proportion, whatever the bytes are.
use std::cell::OnceCell;
use std::io::Write;
use std::sync::Arc;

use crate::exec::{self, Engine, Executor};
use crate::format::Format;
use crate::gate::DenyAll;
use crate::image::{Image, OpenOptions};
use crate::nbd::{self, Export, Stream};
use crate::ops::Repair;
use crate::ops::check::check_storage;
use crate::storage::{IoBuf, MemoryStorage, Storage};

thread_local! {
    static EXECUTOR: OnceCell<Executor> = const { OnceCell::new() };
}

fn with_executor(f: impl FnOnce(&Executor)) {
    EXECUTOR.with(|cell| {
        if cell.get().is_none() {
            // Memory needs no ring.
            match Executor::new(Engine::Threads) {
                Ok(ex) => {
                    let _ = cell.set(ex);
                }
                Err(_) => return,
            }
        }
        if let Some(ex) = cell.get() {
            f(ex);
        }
    });
}

/// Memory that an image of these bytes may grow to.
const ROOM: u64 = 16 << 20;
const PIECE: u64 = 64 << 10;

fn storage(bytes: &[u8]) -> MemoryStorage {
    let storage = MemoryStorage::with_bytes(bytes);
    storage.set_limit(bytes.len() as u64 + ROOM);
    storage
}

/// Opens any bytes as qcow2 and reads here and there.
pub fn open_and_read(bytes: &[u8]) {
    let options = OpenOptions::new(Format::Qcow2).read_only(true);
    let storage = Storage::from(storage(bytes));
    let Ok(image) = Image::open_storage(storage, "fuzz", &options, &DenyAll) else {
        return;
    };
    with_executor(|ex| {
        ex.block_on(async {
            if image.activate().await.is_err() {
                return;
            }
            let size = image.virtual_size();
            for eighth in 0..=8u64 {
                let at = size / 8 * eighth;
                let len = (size - at.min(size)).min(PIECE);
                let _ = image.read_bytes(at.min(size), len as usize).await;
            }
            let _ = image.inactivate().await;
        });
    });
}

/// Opens any bytes as qcow2, changes the disk as the first bytes say, and checks the result.
pub fn open_write_check(bytes: &[u8]) {
    let (script, image_bytes) = bytes.split_at(bytes.len().min(64));
    let memory = storage(image_bytes);
    let options = OpenOptions::new(Format::Qcow2);
    let opened = Image::open_storage(memory.clone().into(), "fuzz", &options, &DenyAll);
    with_executor(|ex| {
        if let Ok(image) = opened {
            ex.block_on(change(&image, script));
        }
        let _ = ex.block_on(check_storage(memory.fork().into(), "fuzz", Repair::No));
        let _ = ex.block_on(check_storage(memory.clone().into(), "fuzz", Repair::All));
    });
}

async fn change(image: &Image, script: &[u8]) {
    if image.activate().await.is_err() {
        return;
    }
    let size = image.virtual_size();
    for step in script.chunks_exact(4) {
        let [what, place, fine, amount] = *step else {
            continue;
        };
        let at = (size / 256 * u64::from(place) + u64::from(fine) * 512).min(size);
        let len = (u64::from(amount) * 512).min(size - at).min(PIECE);
        // Each may fail; none may panic.
        let _ = match what % 8 {
            0..=3 => {
                image
                    .write_bytes(at, IoBuf::from(&vec![what; len as usize][..]))
                    .await
            }
            4 => image.write_zeroes(at, len, fine.is_multiple_of(2)).await,
            5 => image.discard(at, len).await,
            6 => image.flush().await,
            _ => image.read_bytes(at, len as usize).await.map(|_| ()),
        };
    }
    let _ = image.inactivate().await;
}

/// A server that hears any bytes from a client which reads everything and then goes away.
pub fn nbd_client(bytes: &[u8]) {
    let memory = MemoryStorage::with_bytes(&[7; 256 << 10]);
    memory.set_limit(1 << 20);
    let options = OpenOptions::new(Format::Raw);
    let Ok(image) = Image::open_storage(memory.into(), "fuzz", &options, &DenyAll) else {
        return;
    };
    let Ok((ours, theirs)) = std::os::unix::net::UnixStream::pair() else {
        return;
    };
    let both = [&ours, &theirs].map(|s| s.set_nonblocking(true));
    if both.iter().any(Result::is_err) {
        return;
    }
    with_executor(|ex| {
        ex.block_on(async {
            if image.activate().await.is_err() {
                return;
            }
            // What does not fit the socket is never said; seeds are shorter.
            let _ = (&theirs).write(bytes);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let theirs = Stream::Unix(theirs);
            let spawned = exec::spawn_local(async move {
                let mut heard = vec![0; 64 << 10];
                while matches!(theirs.read(&mut heard).await, Ok(n) if n > 0) {}
            });
            if spawned.is_ok() {
                nbd::serve_one(Stream::Unix(ours), Export::new(Arc::new(image))).await;
            }
        });
    });
}

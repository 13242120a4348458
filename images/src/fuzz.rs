//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer.
//! They must not panic, loop, or take memory out of proportion, whatever the bytes are. Each returns
//! whether the bytes got to the heart of the matter, so that a test can hold that some do.
use std::cell::{Cell, OnceCell};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use crate::exec::{self, Engine, Executor};
use crate::format::Format;
use crate::format::qcow2;
use crate::format::qcow2::bitmap::{directory, directory_on_disk};
use crate::format::qcow2::header::{be64, extension};
use crate::gate::DenyAll;
use crate::image::{Image, OpenOptions};
use crate::nbd::{self, Export, Stream};
use crate::ops::check::check_storage;
use crate::ops::create::{CreateOptions, create_on};
use crate::ops::{self, Repair};
use crate::storage::{IoBuf, MemoryStorage, Storage};

thread_local! {
    static EXECUTOR: OnceCell<Executor> = const { OnceCell::new() };
}

fn with_executor(f: impl FnOnce(&Executor) -> bool) -> bool {
    EXECUTOR.with(|cell| {
        if cell.get().is_none() {
            // Memory needs no ring.
            match Executor::new(Engine::Threads) {
                Ok(ex) => {
                    let _ = cell.set(ex);
                }
                Err(_) => return false,
            }
        }
        cell.get().is_some_and(f)
    })
}

/// Memory that an image of these bytes may grow to.
const ROOM: u64 = 16 << 20;
const PIECE: u64 = 64 << 10;

fn storage(bytes: &[u8]) -> MemoryStorage {
    let storage = MemoryStorage::with_bytes(bytes);
    storage.set_limit(bytes.len() as u64 + ROOM);
    storage
}

/// Opens any bytes as qcow2 and reads here and there. Whether something was read.
pub fn open_and_read(bytes: &[u8]) -> bool {
    read_as(Format::Qcow2, bytes)
}

/// Opens any bytes as vmdk and reads here and there. Whether something was read.
pub fn vmdk(bytes: &[u8]) -> bool {
    read_as(Format::Vmdk, bytes)
}

fn read_as(format: Format, bytes: &[u8]) -> bool {
    let options = OpenOptions::new(format).read_only(true);
    let storage = Storage::from(storage(bytes));
    let Ok(image) = Image::open_storage(storage, "fuzz", &options, &DenyAll) else {
        return false;
    };
    with_executor(|ex| {
        ex.block_on(async {
            if image.activate().await.is_err() {
                return false;
            }
            let mut found = false;
            let size = image.virtual_size();
            for eighth in 0..=8u64 {
                let at = size / 8 * eighth;
                let len = (size - at.min(size)).min(PIECE);
                let read = image.read_bytes(at.min(size), len as usize).await;
                found |= len > 0 && read.is_ok();
            }
            let _ = image.inactivate().await;
            found
        })
    })
}

/// Opens any bytes as qcow2, changes the disk as the first bytes say, and checks the result. Whether
/// something was written, and the image checked.
pub fn open_write_check(bytes: &[u8]) -> bool {
    let (script, image_bytes) = bytes.split_at(bytes.len().min(64));
    let memory = storage(image_bytes);
    let options = OpenOptions::new(Format::Qcow2);
    let opened = Image::open_storage(memory.clone().into(), "fuzz", &options, &DenyAll);
    with_executor(|ex| {
        let written = match opened {
            Ok(image) => ex.block_on(change(&image, script)),
            Err(_) => false,
        };
        let checked = ex.block_on(check_storage(memory.fork().into(), "fuzz", Repair::No));
        let _ = ex.block_on(check_storage(memory.clone().into(), "fuzz", Repair::All));
        written && checked.is_ok()
    })
}

/// Whether something was written.
async fn change(image: &Image, script: &[u8]) -> bool {
    if image.activate().await.is_err() {
        return false;
    }
    let mut written = false;
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
                let data = IoBuf::from(&vec![what; len as usize][..]);
                let done = image.write_bytes(at, data).await;
                written |= len > 0 && done.is_ok();
                done
            }
            4 => image.write_zeroes(at, len, fine.is_multiple_of(2)).await,
            5 => image.discard(at, len).await,
            6 => image.flush().await,
            _ => image.read_bytes(at, len as usize).await.map(|_| ()),
        };
    }
    let _ = image.inactivate().await;
    written
}

/// Puts any bytes where an image has the directory and the tables of its bitmaps, and uses them. Whether
/// one of the bitmaps could be read.
pub fn bitmaps(bytes: &[u8]) -> bool {
    let (counts, rest) = bytes.split_at(bytes.len().min(2));
    let count = counts.first().map_or(0, |&n| u32::from(n));
    // The parser by itself sees bytes of every length.
    let _ = directory::parse(rest, count);
    let _ = directory::Place::parse(rest, 512, 1 << 20);
    let memory = MemoryStorage::new();
    memory.set_limit(ROOM);
    with_executor(|ex| {
        let places = ex.block_on(with_bitmaps(&memory));
        let Some((directory, tables)) = places.ok().filter(|(offset, _)| *offset > 0) else {
            return false;
        };
        let split = rest
            .len()
            .min(usize::from(counts.last().copied().unwrap_or(0)) * 2);
        let (first, second) = rest.split_at(split);
        let image = Storage::from(memory.clone());
        let _ = image.write_now(
            directory,
            first.get(..512.min(first.len())).unwrap_or(first),
        );
        for (table, bytes) in tables.into_iter().zip(second.chunks(64)) {
            let _ = image.write_now(table, bytes);
        }
        let options = OpenOptions::new(Format::Qcow2);
        let opened = Image::open_storage(image, "fuzz", &options, &DenyAll);
        let used = match opened {
            Ok(image) => ex.block_on(use_bitmaps(&image)),
            Err(_) => false,
        };
        let _ = ex.block_on(check_storage(memory.fork().into(), "fuzz", Repair::No));
        let _ = ex.block_on(check_storage(memory.into(), "fuzz", Repair::All));
        used
    })
}

/// Makes an image with two bitmaps that have something; where the directory and the tables are.
async fn with_bitmaps(memory: &MemoryStorage) -> crate::error::Result<(u64, Vec<u64>)> {
    let new = CreateOptions {
        cluster_size: 512,
        ..CreateOptions::new(Format::Qcow2, 128 << 10)
    };
    create_on(&memory.clone().into(), &new)?;
    let options = OpenOptions::new(Format::Qcow2);
    let image = Image::open_storage(memory.clone().into(), "fuzz", &options, &DenyAll)?;
    image.activate().await?;
    for name in ["one", "two"] {
        ops::bitmap::add(&image, name, Some(512), true).await?;
    }
    let data = IoBuf::from(&[1; 5000][..]);
    image.write_bytes(3000, data).await?;
    image.inactivate().await?;
    let storage = Storage::from(memory.clone());
    let header = qcow2::read_header(&storage)?;
    let place = header.extension(extension::BITMAPS);
    let place = place.map_or(0, |bytes| be64(bytes, 16));
    let entries = directory_on_disk(&storage, &header)?;
    Ok((place, entries.iter().map(|e| e.table_offset).collect()))
}

async fn use_bitmaps(image: &Image) -> bool {
    if image.activate().await.is_err() {
        return false;
    }
    let mut read = false;
    // Each may fail; none may panic.
    for found in ops::bitmap::list(image).unwrap_or_default() {
        read |= ops::bitmap::dirty(image, &found.name).await.is_ok();
        let _ = ops::bitmap::enable(image, &found.name, true).await;
        let _ = ops::bitmap::merge(image, "one", None, &found.name).await;
    }
    let _ = ops::bitmap::add(image, "new", None, true).await;
    let _ = image.write_bytes(70_000, IoBuf::from(&[2; 1000][..])).await;
    let _ = ops::bitmap::clear(image, "one").await;
    let _ = ops::bitmap::remove(image, "two").await;
    let _ = image.inactivate().await;
    read
}

/// What is on the disk that a client is offered.
const CONTENT: u8 = 7;

/// A server that hears any bytes from a client which reads everything and then goes away.
/// Whether it was told what is on the disk.
pub fn nbd_client(bytes: &[u8]) -> bool {
    let memory = MemoryStorage::with_bytes(&[CONTENT; 256 << 10]);
    memory.set_limit(1 << 20);
    let options = OpenOptions::new(Format::Raw);
    let Ok(image) = Image::open_storage(memory.into(), "fuzz", &options, &DenyAll) else {
        return false;
    };
    let Ok((ours, theirs)) = std::os::unix::net::UnixStream::pair() else {
        return false;
    };
    let both = [&ours, &theirs].map(|s| s.set_nonblocking(true));
    if both.iter().any(Result::is_err) {
        return false;
    }
    with_executor(|ex| {
        ex.block_on(async {
            if image.activate().await.is_err() {
                return false;
            }
            // What does not fit the socket is never said; seeds are shorter.
            let _ = (&theirs).write(bytes);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let theirs = Stream::Unix(theirs);
            let content = Rc::new(Cell::new(false));
            let found = Rc::clone(&content);
            let spawned = exec::spawn_local(async move {
                let mut heard = vec![0; 64 << 10];
                while let Ok(count @ 1..) = theirs.read(&mut heard).await {
                    let heard = heard.get(..count).unwrap_or_default();
                    if heard.windows(512).any(|some| some == [CONTENT; 512]) {
                        found.set(true);
                    }
                }
            });
            if spawned.is_ok() {
                nbd::serve_one(Stream::Unix(ours), Export::new(Arc::new(image))).await;
            }
            content.get()
        })
    })
}

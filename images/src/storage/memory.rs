//! Storage in memory, for tests and fuzzing: sparse, with a log of everything that reached it,
//! and with faults on demand. Crash tests replay the log.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::beyond_file;
use super::buffer::{self, Buffer, IoBuf};
use crate::error::{Error, Result};
use crate::exec;
use crate::sync::lock;

const PAGE: u64 = 4096;

/// One thing that happened to the storage, in the order of completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written at an offset.
    Write(u64, Vec<u8>),
    /// A range (offset, length) was zeroed or discarded.
    Zero(u64, u64),
    /// The length was set.
    SetLen(u64),
    /// Everything before is durable.
    Sync,
}

/// Events of several storages in the order in which they happened, each with the number of its
/// storage.
pub type SharedLog = Arc<Mutex<Vec<(usize, Event)>>>;

/// What a fault function answers for an event that is about to happen: an errno, or none.
pub type Fault = Box<dyn FnMut(&Event) -> Option<i32> + Send>;

#[derive(Default)]
struct Contents {
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    log: Option<Vec<Event>>,
    shared: Option<(usize, SharedLog)>,
    fault: Option<Fault>,
    limit: u64,
}

/// Bytes in memory; clones share them.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    contents: Arc<Mutex<Contents>>,
}

impl MemoryStorage {
    /// Empty storage.
    pub fn new() -> MemoryStorage {
        let storage = MemoryStorage::default();
        lock(&storage.contents).limit = u64::MAX;
        storage
    }

    /// Storage with these bytes.
    pub fn with_bytes(bytes: &[u8]) -> MemoryStorage {
        let storage = MemoryStorage::new();
        lock(&storage.contents).write(0, bytes);
        storage
    }

    /// Refuses (ENOSPC) to become longer than this: bounds what a hostile image can make it hold.
    pub fn set_limit(&self, limit: u64) {
        lock(&self.contents).limit = limit;
    }

    /// Starts a new log of events.
    pub fn start_log(&self) {
        lock(&self.contents).log = Some(Vec::new());
    }

    /// Writes events into a log that other storages share, as those of storage `number`.
    pub fn share_log(&self, number: usize, log: &SharedLog) {
        lock(&self.contents).shared = Some((number, log.clone()));
    }

    /// The number of events in the log.
    pub fn log_len(&self) -> usize {
        lock(&self.contents).log.as_ref().map_or(0, Vec::len)
    }

    /// Takes the log; logging goes on with an empty one.
    pub fn take_log(&self) -> Vec<Event> {
        lock(&self.contents)
            .log
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Makes events fail as `fault` says.
    pub fn set_fault(&self, fault: Option<Fault>) {
        lock(&self.contents).fault = fault;
    }

    /// Applies an event without logging it, for replay.
    pub fn apply(&self, event: &Event) {
        lock(&self.contents).apply(event);
    }

    /// A copy that shares nothing with this one; without log and faults.
    pub fn fork(&self) -> MemoryStorage {
        let contents = lock(&self.contents);
        let copy = Contents {
            pages: contents.pages.clone(),
            len: contents.len,
            limit: contents.limit,
            ..Contents::default()
        };
        MemoryStorage {
            contents: Arc::new(Mutex::new(copy)),
        }
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let contents = lock(&self.contents);
        let mut out = vec![0; usize::try_from(contents.len).unwrap_or(0)];
        contents.read(0, &mut out);
        out
    }

    /// The first bytes; zero behind the end.
    pub fn head(&self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        lock(&self.contents).read(0, &mut out);
        out
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        lock(&self.contents).len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn read_sync(&self, offset: u64, len: usize) -> Result<IoBuf> {
        let mut buf = IoBuf::try_zeroed(len as u64)?;
        lock(&self.contents).read(offset, &mut buf);
        Ok(buf)
    }

    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.perform(Event::Write(offset, bytes.to_vec()))
    }

    pub(crate) async fn read(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        exec::yield_now().await;
        let mut at = offset;
        for buf in bufs {
            let mut bytes = vec![0; buf.len()];
            lock(&self.contents).read(at, &mut bytes);
            buffer::scatter(std::slice::from_ref(buf), &bytes);
            at = at
                .checked_add(buf.len() as u64)
                .ok_or_else(|| beyond_file(at))?;
        }
        Ok(())
    }

    fn perform(&self, event: Event) -> Result<()> {
        let mut contents = lock(&self.contents);
        if let Some(fault) = contents.fault.as_mut()
            && let Some(errno) = fault(&event)
        {
            return Err(Error::io(
                "injected",
                &std::io::Error::from_raw_os_error(errno),
            ));
        }
        let end = match &event {
            Event::Write(offset, bytes) => offset.saturating_add(bytes.len() as u64),
            Event::SetLen(len) => *len,
            _ => 0,
        };
        if end > contents.limit {
            let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(Error::io("memory storage is full", &full));
        }
        contents.apply(&event);
        if let Some((number, log)) = &contents.shared {
            lock(log).push((*number, event.clone()));
        }
        if let Some(log) = contents.log.as_mut() {
            log.push(event);
        }
        Ok(())
    }

    pub(crate) async fn write(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        exec::yield_now().await;
        let len = usize::try_from(buffer::total(bufs)).map_err(|_| beyond_file(offset))?;
        let mut bytes = vec![0; len];
        buffer::gather(bufs, &mut bytes);
        self.perform(Event::Write(offset, bytes))
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        exec::yield_now().await;
        self.perform(Event::Sync)
    }

    pub(crate) async fn zero(&self, offset: u64, len: u64) -> Result<()> {
        exec::yield_now().await;
        self.perform(Event::Zero(offset, len))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        self.perform(Event::SetLen(len))
    }
}

impl Contents {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Write(offset, bytes) => self.write(*offset, bytes),
            Event::Zero(offset, len) => self.zero(*offset, *len),
            Event::SetLen(len) => {
                if *len < self.len {
                    self.zero(*len, self.len - *len);
                }
                self.len = *len;
            }
            Event::Sync => {}
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = offset.saturating_add(done as u64);
            let (page, skip) = (at / PAGE, (at % PAGE) as usize);
            let n = (PAGE as usize - skip).min(out.len() - done);
            let target = &mut out[done..done + n];
            match self.pages.get(&page) {
                Some(bytes) => target.copy_from_slice(&bytes[skip..skip + n]),
                None => target.fill(0),
            }
            done += n;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset.saturating_add(done as u64);
            let (page, skip) = (at / PAGE, (at % PAGE) as usize);
            let n = (PAGE as usize - skip).min(bytes.len() - done);
            let target = self
                .pages
                .entry(page)
                .or_insert_with(|| vec![0; PAGE as usize].into());
            target[skip..skip + n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
        self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
    }

    /// Zeroes what lies within the length; the length stays.
    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        let mut at = offset;
        while at < end {
            let (page, skip) = (at / PAGE, at % PAGE);
            let n = (PAGE - skip).min(end - at);
            if n == PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[skip as usize..(skip + n) as usize].fill(0);
            }
            at += n;
        }
    }
}

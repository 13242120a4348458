//! Replaying what was written up to a power cut: what may be there then, and what must.
use images::Format;
use images::exec::Executor;
use images::ops::check::check_storage;
use images::ops::create::create_on;
use images::ops::{CreateOptions, Repair};
use images::storage::{Event, MemoryStorage};

use super::{Change, Random, check};

pub const SECTOR: usize = 512;

/// One change and when it happened: positions of the log, and the order of all calls and returns,
/// which is finer because some requests only change memory.
#[derive(Debug, Clone)]
pub struct Done {
    pub change: Change,
    pub issued: usize,
    pub acknowledged: usize,
    pub called: u64,
    pub returned: u64,
}

pub fn overlap(a: Change, b: Change) -> bool {
    let range = |c| match c {
        Change::Write { at, len, .. }
        | Change::Zero { at, len, .. }
        | Change::Discard { at, len } => (at, at + len),
        Change::Flush => (0, 0),
    };
    let (a, b) = (range(a), range(b));
    a.0 < b.1 && b.0 < a.1
}

/// What each sector may read as after a crash behind `position` events. None: anything.
pub fn allowed(before: &[u8], done: &[Done], position: usize) -> Vec<Option<Vec<u8>>> {
    let flushed = done
        .iter()
        .filter(|d| d.change == Change::Flush && d.acknowledged <= position)
        .map(|d| d.called)
        .max();
    let mut out: Vec<Option<Vec<u8>>> = before
        .chunks(SECTOR)
        .map(|sector| Some(vec![sector[0]]))
        .collect();
    for d in done {
        // Issued behind the crash: the events of the log are recorded at their end, so a request
        // that was issued at this position may have done something.
        if d.issued > position {
            continue;
        }
        let durable = flushed.is_some_and(|f| d.returned < f);
        let (at, len, value) = match d.change {
            Change::Write { at, len, value } => (at, len, Some(value)),
            Change::Zero { at, len, .. } => (at, len, Some(0)),
            Change::Discard { at, len } => (at, len, None),
            Change::Flush => continue,
        };
        for slot in &mut out[at as usize / SECTOR..(at + len) as usize / SECTOR] {
            match (value, durable) {
                (Some(v), true) => *slot = Some(vec![v]),
                (Some(v), false) => {
                    if let Some(values) = slot {
                        values.push(v);
                    }
                }
                (None, true) => {
                    if let Some(values) = slot {
                        values.push(0);
                    }
                }
                (None, false) => *slot = None,
            }
        }
    }
    out
}

/// The first sector that has what it must not have.
pub fn first_wrong(bytes: &[u8], allowed: &[Option<Vec<u8>>]) -> Option<usize> {
    allowed.iter().enumerate().position(|(s, allowed)| {
        let sector = &bytes[s * SECTOR..(s + 1) * SECTOR];
        let uniform = sector.iter().all(|&b| b == sector[0]);
        allowed
            .as_ref()
            .is_some_and(|values| !uniform || !values.contains(&sector[0]))
    })
}

/// Tells about a sector that is wrong.
pub fn describe(sector: usize, bytes: &[u8], allowed: &[Option<Vec<u8>>], done: &[Done]) -> String {
    let (value, allowed) = (bytes[sector * SECTOR], &allowed[sector]);
    let place = Change::Zero {
        at: (sector * SECTOR) as u64,
        len: SECTOR as u64,
        unmap: false,
    };
    let history: Vec<&Done> = done
        .iter()
        .filter(|d| d.change == Change::Flush || overlap(d.change, place))
        .collect();
    format!("sector {sector} is {value}, allowed are {allowed:?}: {history:#?}")
}

/// What our check finds that is worse than leaks. A dirty image is repaired first, as whoever
/// opens it does.
pub fn corruption(ex: &Executor, state: &MemoryStorage) -> Option<String> {
    let repair = match is_dirty(state) {
        true => Repair::All,
        false => Repair::No,
    };
    match ex.block_on(check_storage(state.clone().into(), "state", repair)) {
        Err(e) => Some(format!("check: {e}")),
        Ok(r) if r.corruptions > 0 => {
            let errors: Vec<_> = r.messages.iter().filter(|m| m.contains("ERROR")).collect();
            Some(format!("corrupt: {errors:?}"))
        }
        Ok(_) => None,
    }
}

fn is_dirty(state: &MemoryStorage) -> bool {
    let bytes = state.head(80);
    bytes.get(7) == Some(&3) && bytes.get(79).is_some_and(|b| b & 1 != 0)
}

/// Applies the last event of a state only in part, as a disk does that loses power.
fn torn(r: &mut Random, event: &Event) -> Event {
    match event {
        Event::Write(at, bytes) if bytes.len() > SECTOR => {
            let sectors = r.below((bytes.len() / SECTOR) as u64) as usize;
            Event::Write(*at, bytes[..sectors * SECTOR].to_vec())
        }
        other => other.clone(),
    }
}

/// What a disk may have of the events since its last flush: 0 all, 1 some, 2 all but that the
/// last one is torn.
pub fn apply_some(r: &mut Random, state: &MemoryStorage, epoch: &[Event], variant: usize) {
    let last = epoch.len().saturating_sub(1);
    for (i, event) in epoch.iter().enumerate() {
        match variant {
            0 => state.apply(event),
            1 if r.below(2) == 0 => state.apply(event),
            2 if i < last => state.apply(event),
            2 => state.apply(&torn(r, event)),
            _ => {}
        }
    }
}

/// `qemu-img check` finds nothing worse than leaks either.
pub fn qemu_agrees(state: &MemoryStorage) {
    let tool = std::process::Command::new("qemu-img")
        .arg("--version")
        .output();
    if tool.is_err() || is_dirty(state) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.qcow2");
    std::fs::write(&file, state.to_vec()).unwrap();
    // Some of the images name these; their check does not read them.
    std::fs::write(dir.path().join("base.raw"), []).unwrap();
    for name in ["base.qcow2", "top.qcow2"] {
        let empty = MemoryStorage::new();
        create_on(
            &empty.clone().into(),
            &CreateOptions::new(Format::Qcow2, 512),
        )
        .unwrap();
        std::fs::write(dir.path().join(name), empty.to_vec()).unwrap();
    }
    let (status, text) = check(&file);
    assert!(status == 0 || status == 3, "qemu-img check: {text}");
}

//! What a client of the control socket asks of the display: its picture, and keys.
//!
//! Both take a while (a disk, the time that keys are held), so each has a thread of its own; the driver
//! goes on. They need no row in the table of states: a picture can always be taken, and keys that a guest
//! which stands still cannot take are dropped like those of any viewer.

use crate::control::Ticket;
use crate::display::screenshot;
use devices::backend::display::{Display, code};
use std::fs::File;
use std::sync::Arc;
use std::thread::{Builder, sleep};
use std::time::Duration;
use vmm_api::control::{ControlError, ErrorKind, Reply};

/// Stack of such a thread.
const STACK: usize = 128 << 10;
/// Keys that are pressed together, at most.
const MOST_KEYS: usize = 16;
/// Longest time that they are held, in milliseconds.
const LONGEST_HOLD: u32 = 60_000;

type Outcome = Result<Reply, ControlError>;

/// Does `work` beside the driver and answers with what comes of it.
fn beside(mut ticket: Ticket, work: impl FnOnce(&mut Ticket) -> Outcome + Send + 'static) {
    let thread = Builder::new().name("screen".into()).stack_size(STACK);
    let spawned = thread.spawn(move || {
        let outcome = work(&mut ticket);
        ticket.answer(outcome);
    });
    if let Err(error) = spawned {
        // The ticket went with the closure, which answers that nobody will.
        tracing::error!(%error, "no thread for the screen");
    }
}

/// Writes the picture into the file that came with the request.
pub(super) fn take_picture(display: &Arc<Display>, ticket: Ticket) {
    let display = Arc::clone(display);
    beside(ticket, move |ticket| {
        let invalid = |what: String| ControlError::new(ErrorKind::Invalid, what);
        let fd = ticket
            .take_fds()
            .pop()
            .ok_or_else(|| invalid("the request came without a file descriptor".into()))?;
        screenshot::write(&display, File::from(fd)).map_err(|error| {
            let message = format!("the picture cannot be written: {error}");
            ControlError::new(ErrorKind::Failed, message)
        })?;
        Ok(Reply::Done)
    });
}

/// Presses keys, holds them and lets them go, the last one first.
pub(super) fn press(display: &Arc<Display>, ticket: Ticket, codes: Vec<u16>, hold_ms: u32) {
    let invalid = |what: String| Err(ControlError::new(ErrorKind::Invalid, what));
    if codes.is_empty() || codes.len() > MOST_KEYS {
        return ticket.answer(invalid(format!(
            "{} keys; 1 to {MOST_KEYS} can be pressed together",
            codes.len()
        )));
    }
    if let Some(wrong) = codes
        .iter()
        .find(|key| !(1..=code::KEY_LAST).contains(*key))
    {
        return ticket.answer(invalid(format!(
            "no keyboard has a key {wrong}; they go from 1 to {}",
            code::KEY_LAST
        )));
    }
    let display = Arc::clone(display);
    let hold = Duration::from_millis(hold_ms.min(LONGEST_HOLD).into());
    beside(ticket, move |_| {
        let down = codes.iter().filter(|key| display.key(**key, true)).count();
        if down < codes.len() {
            let message = "the guest has no virtio keyboard";
            return Err(ControlError::new(ErrorKind::Unsupported, message));
        }
        sleep(hold);
        codes.iter().rev().for_each(|key| {
            display.key(*key, false);
        });
        Ok(Reply::Done)
    });
}

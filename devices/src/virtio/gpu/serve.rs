//! Requests on their way through the card.

use super::command::{self, Command, Failure, LONGEST, PIECE, Response};
use super::device::Shared;
use crate::virtio::queue::{Element, Virtqueue};
use images::exec::yield_now;
use std::sync::Arc;
use vm_memory::GuestAddressSpace;

/// How often one card's guest may fill the log with commands that fail.
const COMPLAINTS: u64 = 8;

/// Serves one queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, shared: Arc<Shared>) {
    loop {
        match queue.next() {
            Some(element) => {
                let written = answer(&element, &shared);
                element.complete(written);
                // A guest that draws without end shares the thread with its other queue.
                yield_now().await;
            }
            None if queue.kicked().await => {}
            None => return,
        }
    }
}

/// Does what a request asks; how many bytes of an answer were written.
fn answer(element: &Element, shared: &Shared) -> u32 {
    let mut bytes = [0; LONGEST];
    let length = element.read_at(0, &mut bytes);
    let (header, command) = command::parse(bytes.get(..length).unwrap_or_default());
    let response = match command {
        Ok(command) => perform(element, command, shared),
        Err(failure) => shared.card().fail(failure),
    };
    if let Response::Failed(failure) = &response {
        let failures = shared.card().failures;
        if failures <= COMPLAINTS {
            tracing::warn!(
                id = shared.id,
                ?failure,
                ?command,
                "a graphics command failed"
            );
        }
    }
    // The cursor queue has no room for answers.
    let written = element.write_at(0, &response.bytes(header));
    u32::try_from(written).unwrap_or(0)
}

fn perform(element: &Element, command: Command, shared: &Shared) -> Response {
    let pieces = match command {
        Command::Attach { pieces, .. } => {
            let room = shared.card().room_for_pieces();
            match pieces_behind(element, pieces, room) {
                Ok(pieces) => pieces,
                Err(failure) => return shared.card().fail(failure),
            }
        }
        _ => Vec::new(),
    };
    let memory = shared.memory.memory();
    shared.card().perform(command, pieces, &memory)
}

/// The pieces of memory that follow an attach command.
fn pieces_behind(element: &Element, count: u32, room: usize) -> Result<Vec<(u64, u32)>, Failure> {
    const START: u64 = command::HEADER as u64 + 8;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > room {
        return Err(Failure::OutOfMemory);
    }
    let length = count * PIECE;
    if element.readable_len() < START + length as u64 {
        return Err(Failure::Parameter);
    }
    let mut bytes = vec![0; length];
    element.read_at(START, &mut bytes);
    Ok(command::pieces(&bytes))
}

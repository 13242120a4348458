//! virtio-gpu: a graphics card with one output, for pictures in two dimensions (virtio 1.3 §5.7).
//!
//! The life of a frame: the guest draws into its own memory -> a command on the control queue,
//! doorbell -> `worker` wakes [`serve`] -> [`command`] parses it (a pure function) -> `card` does it:
//! `TRANSFER_TO_HOST_2D` copies the rectangle from the pages that back the resource into our copy of
//! it ([`resource`]), `RESOURCE_FLUSH` paints the part that the output shows into the machine's
//! [`crate::backend::display::Display`] -> response, used ring, interrupt. Who looks at the display
//! copies from there; the guest never waits for them. Commands are done one after the other before
//! they are answered, so a fence is nothing more than its number sent back.
//!
//! What a guest may take is bounded: bytes of all pictures together (the spec says how many), pieces
//! of backing memory, resources. Rectangles are compared without wrapping. Nothing is rendered here:
//! no 3D, no shared memory, no blobs are offered, and their commands get an error.
//!
//! Files: [`create`](self::create()) makes it, `device` is the front-end, `serve` moves requests,
//! `command` and `edid` are pure, `card` and `resource` are the model, `state` is what it saves: all
//! pictures, packed.

mod card;
mod command;
mod create;
mod device;
mod edid;
mod resource;
mod serve;
mod state;

pub use create::create;

#[cfg(test)]
mod tests;

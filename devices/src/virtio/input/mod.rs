//! virtio-input: a keyboard, a tablet or a mouse (virtio 1.3 §5.8).
//!
//! The life of a key: a viewer presses it -> [`crate::backend::display::Display::key`] makes a group
//! of events that ends in a SYN -> [`device`] puts the group into its queue of waiting ones, on the
//! viewer's thread, and writes as many whole groups as the guest has buffers for -> used ring,
//! interrupt. Groups that find no buffers wait, [`device::WAITING`] events at most; the guest's
//! doorbell brings them in. What comes beyond that is dropped, always as whole groups.
//!
//! The other way round the guest says what the lamps of its keyboard should be; it is thrown away.
//!
//! Files: `config` answers what the device is, `device` serves it, `state` is what it saves: what the
//! driver has selected, and the keys that the guest believes to be down, which are let go after a
//! restore because their viewers are not there any more. All input devices share one thread, which
//! is there once a driver is.

mod config;
mod create;
mod device;
mod state;

pub use create::create;

#[cfg(test)]
mod tests;

//! virtio-rng: entropy from the host (virtio 1.3 §5.4).
//!
//! The life of a request: doorbell -> `worker` wakes `device::serve` -> the source has bytes and the
//! rate allows some (both are waited for *before* a request is taken, so a dry source never delays
//! a pause or a reset) -> `queue` gives a validated chain -> up to [`device::CHUNK`] bytes are copied
//! into it -> used ring, interrupt.
//!
//! Files: [`create`](self::create()) makes it, `device` serves it, `quota` is the rate limit, `tests`
//! drive it through the buses. It has no state of its own: a rate's period starts afresh after a
//! restore.

mod create;
mod device;
mod quota;

pub use create::create;

#[cfg(test)]
mod tests;

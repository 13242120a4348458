//! virtio-balloon: guest RAM that its guest does without (virtio 1.3 §5.5).
//!
//! **The life of a page that goes back**: an operator sets a target; `device` tells the driver, by the
//! configuration space, how many pages it shall give up. The driver takes pages from its own allocator
//! and offers their frame numbers on the inflate queue: doorbell -> `serve::inflate` reads some of them
//! -> `pages` sorts them into runs (pure) -> [`backend::ram`](crate::backend::ram) gives each run back,
//! by whatever the region is made of, and marks it dirty -> used ring, interrupt. Then the driver writes
//! how many pages it has given up in all; that is what `dominfo` shows.
//!
//! **The way back** costs nothing: the driver says on the deflate queue which pages it uses again, and
//! the first touch brings zeros.
//!
//! **Free page reporting**: without any target the driver offers ranges of free memory as buffers to be
//! filled; they are given back, and are the guest's again when the buffer is used.
//!
//! **Statistics**: the driver leaves one buffer of figures with us. It stays in the ring, so that a
//! pause has nothing to wait for; it is used when somebody wants newer ones, and comes back with them.
//!
//! A frame outside RAM is ignored and logged once. Nothing that a guest says here allocates: a request
//! of any length is read in pieces, up to a bound.
//!
//! | file | what |
//! |---|---|
//! | [`create`](self::create()) | from the spec |
//! | `device.rs` | the front-end: features, configuration space, targets, counters |
//! | `pages.rs` | frame numbers to runs: pure |
//! | `serve.rs` | the queues |
//! | `statistics.rs` | the guest's figures: parsing, how old they are, when to ask |
//! | `state.rs` | what is saved |

mod create;
mod device;
mod pages;
mod serve;
mod state;
mod statistics;

pub use create::create;

#[cfg(test)]
mod tests;

//! virtio 1.3: devices on queues in guest RAM, behind a modern PCI transport.
//!
//! ```text
//! transport/pci   registers: feature negotiation, queue addresses, doorbells, interrupts
//!   | start(queues)            ^ signal, broken, drained
//!   v                          |
//! device.rs       what a model offers (balloon, block, console, gpu, ...): a dozen calls at most
//!   | tasks
//!   v
//! worker.rs       one thread, one executor, a set of queues
//!   | next()                   ^ complete(), park()
//!   v                          |
//! queue.rs        one split ring: pops, pushes, counts what is in flight, pauses, stops
//!   v
//! chain.rs        one validated descriptor chain: readable bytes, writable bytes
//! ```
//!
//! Threads: registers are used by vCPU threads, queues by their worker; `queue.rs` is where they
//! meet, behind one short lock per queue. Nothing is allocated, registered or started for a queue
//! before the driver turned it on.
//!
//! A malformed *ring* (a chain that loops, points outside RAM, is offered twice) sets
//! DEVICE_NEEDS_RESET; a malformed *request* is the device's business and gets an error status. Both
//! are logged a few times and no more. No guest input may panic or allocate without bound.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod gpu;
mod histogram;
pub mod input;
pub mod iothreads;
pub mod net;
pub mod queue;
pub mod rng;
pub mod transport;
pub mod worker;

#[cfg(test)]
pub(crate) mod testing;

/// virtio 1.3 §6: the device uses the event index of both rings.
pub const FEATURE_EVENT_IDX: u64 = 1 << 29;
/// virtio 1.3 §6: descriptors may point at tables of descriptors.
pub const FEATURE_INDIRECT: u64 = 1 << 28;
/// virtio 1.3 §6: a modern device.
pub const FEATURE_VERSION_1: u64 = 1 << 32;

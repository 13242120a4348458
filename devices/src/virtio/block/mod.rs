//! virtio-blk: a disk (virtio 1.3 §5.2).
//!
//! **The life of a read**, in six hops:
//!
//! 1. The guest writes the queue's doorbell; KVM rings its eventfd without leaving the kernel.
//! 2. The disk's [worker](super::worker) wakes in `serve::serve` and drains the [queue](super::queue).
//! 3. The queue hands out a [chain](super::chain) that is valid: bytes to read, bytes to write, in RAM.
//! 4. [`request::parse`] turns header and lengths into an operation: a pure, total function.
//! 5. `serve::perform` lends the guest's own pages to [`images::Image::read`], which finds where the
//!    data is and lets the kernel read it there. Many requests are under way at once, each one a
//!    task of the worker.
//! 6. The task goes on when the kernel is done: pages are marked dirty, the status byte is written,
//!    the queue pushes a used entry and, if the driver wants one, raises the interrupt.
//!
//! **Errors.** A malformed request gets an error status, and the guest lives on. What the image
//! reports goes through the disk's policy ([`policy`]): to the guest, or the request is parked and
//! the machine pauses with "I/O error" until `resume` tries again. Parked requests are part of saved
//! state.
//!
//! **Back-end and front-end.** The [image](images::Image) is opened inactive when the device is made,
//! and outlives resets; it belongs to this machine between `activate` and `inactivate` only.
//!
//! | file | what |
//! |---|---|
//! | [`create`](self::create()) | from the spec: descriptors, image chain, device |
//! | `device.rs` | the front-end: features, configuration space, start |
//! | `request.rs` | parsing |
//! | `serve.rs` | hops 2 to 6 |
//! | `merge.rs` | neighbours that become one transfer |
//! | `policy.rs` | which errors pause |
//! | `stats.rs` | counters and latencies |
//! | `throttle.rs` | limits: how long a request waits before it is submitted |
//! | `state.rs` | what is saved |

mod config;
mod create;
mod device;
mod merge;
pub mod policy;
pub mod request;
mod serve;
mod state;
mod stats;
mod throttle;

pub use create::create;
pub(crate) use create::in_memory;

#[cfg(test)]
mod tests;

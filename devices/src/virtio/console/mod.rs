//! virtio-console: consoles and channels on the ports of one device (virtio 1.3 §5.3).
//!
//! **The life of what the guest writes**: doorbell, `transmit` wakes in the device's
//! [worker](super::worker), copies the bytes out of the chain and hands them to what is behind the
//! port: a [hub](crate::backend::char) for a console, the client of a listening socket for a channel.
//! A client that does not read fills a bounded buffer; then no more is taken from the queue, so the
//! guest waits and not a vCPU.
//!
//! **The life of what comes to the guest**: the hub's thread, or `channel::serve` for a socket, puts
//! bytes into the port's bounded input as far as there is room and the guest has the port open;
//! `receive` takes them from there into the driver's buffers.
//!
//! **Ports and their two ends**: the driver learns of ports, their names and whether anybody is at
//! the host's end over the control queues (`control`, `ports`); it says in return when a process of
//! the guest has opened one.
//!
//! ```text
//! the driver says DEVICE_READY --> told: PORT_ADD --> it says PORT_READY --> told: CONSOLE_PORT, PORT_NAME
//! client of the socket comes, goes --> told: PORT_OPEN 1, 0      guest opens, closes --> says PORT_OPEN
//! ```
//!
//! What the driver has yet to be told is a set of flags per port and no queue, so a guest that asks
//! again and again and reads nothing costs no memory.
//!
//! | file | what |
//! |---|---|
//! | [`create`](self::create()) | from the spec: descriptors become ports |
//! | `device.rs` | the front-end: features, configuration space, start |
//! | `control.rs` | messages of the control queues: pure |
//! | `ports.rs` | all ports of a device, and the two control queues |
//! | `port.rs` | one port: its buffers, its two ends, its two queues |
//! | `channel.rs` | a port's listening socket |
//! | `state.rs` | what is saved |

mod channel;
mod control;
mod create;
mod device;
mod port;
mod ports;
mod state;

pub use create::create;

#[cfg(test)]
mod tests;

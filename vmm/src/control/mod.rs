//! The control socket: managers ask, the driver answers, events fan out.
//!
//! ```text
//! client --frame--> server thread --Note::Client(request, ticket)--> driver (decides)
//!        <--frame-- server thread <--outbox-- ticket.answer(), outbox.tell(event)
//! ```
//!
//! One thread serves all clients without ever blocking on one: a client that does not read is
//! dropped when its share of memory is used up, one that sends nonsense is dropped at once, and none of them can keep
//! another, the driver or the guest waiting. Whoever may connect is decided by the socket's file
//! mode, which is the manager's business.

mod connection;
pub(crate) mod fuzz;
mod outbox;
mod server;

pub use outbox::{Outbox, Ticket};
pub use server::Server;

/// Optional abilities that this build's hello names.
pub const CAPABILITIES: [&str; 5] = ["save", "stats", "reset", "reboot", "dump"];

#[cfg(test)]
mod tests;

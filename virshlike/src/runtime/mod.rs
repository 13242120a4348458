//! Guests' processes: starting one, finding it again, and talking to it.
//!
//! ```text
//! run/UUID/lock      held by the guest's process as long as it lives; nothing else means alive
//! run/UUID/control   its control socket        run/UUID/console   its console socket
//! run/UUID/spec.json the frozen machine spec   run/UUID/live.xml  the definition it runs
//! run/UUID/run.json  who it is: id, name, pty  run/UUID/end.json  why it ended, in its own words
//! run/UUID/last.json what is kept of the last run, until the next
//! ```
//!
//! A guest is found by its lock, never by a process id. Lock free and no end record: it crashed.
//! Every wait has a deadline and says what it waits for.

pub mod background;
pub mod cgroup;
pub mod chain;
pub mod cores;
pub mod driver;
pub mod fake;
pub mod files;
pub mod guest;
pub mod kernel;
pub mod limits;
pub mod network;
pub mod passt;
pub mod process;
pub mod record;
pub mod rundir;
pub mod socket;
pub mod tap;
pub mod threads;

pub use driver::{Launch, Launched, VmDriver};
pub use files::Descriptors;
pub use guest::Guest;
pub use record::{LastRun, RunRecord};
pub use rundir::{Liveness, RunDir};

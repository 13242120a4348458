//! What others ask of a vCPU thread, and how they wait for it.
//!
//! ```text
//!             run()                    (enters the guest)
//!   PARKED ------------> wanted: run ----------------------> RUNNING
//!     |  ^                                                      |
//!     |  +------ park(), or the guest cannot go on -------------+
//!     | call(job): runs on the thread, in either state
//!     +--- quit() ---> GONE
//! ```
//!
//! Wishes are written first and the vCPU is kicked after ([`crate::kvm::kick`] says why nothing is
//! lost then). The lock here is held for a few instructions only, never while waiting, so anyone may
//! ask from any thread, a vCPU's own thread included; only waiting is forbidden there.

use crate::kvm::Vcpu;
use crate::kvm::kick::{Attached, Kick};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub(super) type Job = Box<dyn FnOnce(&mut Vcpu) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Park,
    Run,
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Actual {
    Parked,
    Running,
    Gone,
}

struct State {
    wish: Wish,
    actual: Actual,
    jobs: VecDeque<Job>,
}

/// The mailbox of one vCPU thread.
pub struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
    kick: Arc<Kick>,
}

/// What the thread does next.
pub(super) enum Next {
    Run,
    Job(Job),
    Quit,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        write!(f, "Mailbox({:?} -> {:?})", state.actual, state.wish)
    }
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                wish: Wish::Park,
                actual: Actual::Parked,
                jobs: VecDeque::new(),
            }),
            changed: Condvar::new(),
            kick: Arc::default(),
        }
    }

    pub(super) fn kick_handle(&self) -> Arc<Kick> {
        Arc::clone(&self.kick)
    }

    /// Makes the thread look at its board again soon, without changing its state.
    pub fn nudge(&self) {
        self.kick.kick();
    }

    /// Lets the vCPU run. Does not wait.
    pub fn run(&self) {
        self.wish(Wish::Run);
    }

    /// Asks the vCPU to stand still. Does not wait: ask all vCPUs first, then wait for each.
    pub fn park(&self) {
        self.wish(Wish::Park);
    }

    /// Asks the thread to end.
    pub fn quit(&self) {
        self.wish(Wish::Quit);
    }

    /// Runs `job` on the thread, between two entries into the guest.
    pub(super) fn call(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.changed.notify_all();
        self.kick.kick();
    }

    /// Waits until the vCPU stands still with no instruction half done, or is gone.
    pub fn wait_parked(&self) {
        let mut state = self.lock();
        while state.actual == Actual::Running {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wish(&self, wish: Wish) {
        {
            let mut state = self.lock();
            if state.wish == Wish::Quit {
                return;
            }
            state.wish = wish;
            // From here on nobody may take it for standing still.
            if wish == Wish::Run && state.actual == Actual::Parked {
                state.actual = Actual::Running;
            }
        }
        self.changed.notify_all();
        if wish != Wish::Run {
            self.kick.kick();
        }
    }

    /// The thread's side: what to do next; waits while there is nothing.
    pub(super) fn next(&self, attached: &mut Attached) -> Next {
        let mut state = self.lock();
        loop {
            attached.clear_kick();
            if let Some(job) = state.jobs.pop_front() {
                return Next::Job(job);
            }
            match state.wish {
                Wish::Quit => return Next::Quit,
                Wish::Run => {
                    state.actual = Actual::Running;
                    return Next::Run;
                }
                Wish::Park => {
                    state.actual = Actual::Parked;
                    self.changed.notify_all();
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The thread's side: the guest cannot go on; stand still until the next [`Mailbox::run`].
    pub(super) fn stand_still(&self) {
        let mut state = self.lock();
        if state.wish == Wish::Run {
            state.wish = Wish::Park;
        }
    }

    /// The thread's side: it ends. Jobs that nobody will run are dropped, which tells their callers.
    pub(super) fn gone(&self) {
        let jobs = {
            let mut state = self.lock();
            state.wish = Wish::Quit;
            state.actual = Actual::Gone;
            std::mem::take(&mut state.jobs)
        };
        drop(jobs);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

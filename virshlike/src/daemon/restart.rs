//! Whether a domain that ended is started again, and when. A pure decision over what is known of
//! the end, so it is the same after the daemon itself was away.
//!
//! ```text
//! ended --> an operator did it? never
//!       --> failure or not, against the policy --> after a delay that doubles in a row of restarts
//!       --> given up after the policy's number in a row; a run of some length ends the row
//! ```

use crate::model::{self, EndAction, Restart, RestartWhen};
use crate::runtime::record::RunEnd;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vmm_api::end::EndReason;

/// A run of this length was a good one: the next failure starts a new row.
const GOOD_RUN: Duration = Duration::from_secs(120);

/// `restarts.json` in the runtime directory: restarts in a row, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// How many.
    pub count: u32,
}

/// What is known of an end.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// How it ended.
    pub end: RunEnd,
    /// Whether an operator asked for it.
    pub asked: bool,
    /// How long it ran.
    pub ran: Duration,
    /// Restarts in a row before it.
    pub row: Row,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Rest,
    /// A start after a delay, as the row then stands.
    After(Duration, Row),
    /// Nothing any more: too many in a row.
    GiveUp(u32),
}

/// The policy of a definition. Without one of ours, libvirt's `on_crash` holds for the end of the
/// process too: the guest's own crashes are handled inside it.
pub fn policy(model: &model::Domain) -> Restart {
    let without = if model.on_crash == EndAction::Restart {
        RestartWhen::OnFailure
    } else {
        RestartWhen::No
    };
    model
        .policy
        .restart
        .unwrap_or_else(|| Restart::new(without))
}

/// Decides.
pub fn decide(policy: &Restart, facts: &Facts) -> Verdict {
    let failure = match facts.end {
        RunEnd::Vanished | RunEnd::Said(EndReason::Crashed | EndReason::Failed) => true,
        RunEnd::Said(EndReason::Shutdown | EndReason::Rebooted | EndReason::DebugExit) => false,
        RunEnd::Said(EndReason::Destroyed | EndReason::Saved | EndReason::Migrated) => {
            return Verdict::Rest;
        }
    };
    let wanted = match policy.when {
        RestartWhen::No => false,
        RestartWhen::OnFailure => failure,
        RestartWhen::Always => true,
    };
    // An operator's shutdown is an end even where the guest crashes on the way.
    if !wanted || facts.asked {
        return Verdict::Rest;
    }
    let row = if facts.ran >= GOOD_RUN {
        Row::default()
    } else {
        facts.row
    };
    next(policy, row)
}

/// The next restart of a row.
pub fn next(policy: &Restart, row: Row) -> Verdict {
    if policy.max != 0 && row.count >= policy.max {
        return Verdict::GiveUp(row.count);
    }
    let doubled = 1u32.checked_shl(row.count.min(20)).unwrap_or(u32::MAX);
    let delay = policy.delay.saturating_mul(doubled).min(policy.max_delay);
    Verdict::After(
        delay,
        Row {
            count: row.count.saturating_add(1),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(end: RunEnd) -> Facts {
        Facts {
            end,
            asked: false,
            ran: Duration::from_secs(10),
            row: Row::default(),
        }
    }

    const CRASHED: RunEnd = RunEnd::Vanished;
    const SHUTDOWN: RunEnd = RunEnd::Said(EndReason::Shutdown);

    #[test]
    fn each_policy_restarts_what_it_names() {
        for (when, crash, shutdown) in [
            (RestartWhen::No, false, false),
            (RestartWhen::OnFailure, true, false),
            (RestartWhen::Always, true, true),
        ] {
            let policy = Restart::new(when);
            let starts = |end| matches!(decide(&policy, &facts(end)), Verdict::After(..));
            assert_eq!(starts(CRASHED), crash, "{when:?}");
            assert_eq!(starts(RunEnd::Said(EndReason::Failed)), crash, "{when:?}");
            assert_eq!(starts(SHUTDOWN), shutdown, "{when:?}");
            for end in [EndReason::Destroyed, EndReason::Saved, EndReason::Migrated] {
                assert!(!starts(RunEnd::Said(end)), "{when:?} {end:?}");
            }
        }
    }

    #[test]
    fn an_operator_has_the_last_word() {
        let policy = Restart::new(RestartWhen::Always);
        for end in [CRASHED, SHUTDOWN] {
            let asked = Facts {
                asked: true,
                ..facts(end)
            };
            assert_eq!(decide(&policy, &asked), Verdict::Rest);
        }
    }

    #[test]
    fn delays_double_up_to_their_limit_and_a_row_ends() {
        let policy = Restart {
            delay: Duration::from_secs(2),
            max_delay: Duration::from_secs(10),
            max: 5,
            ..Restart::new(RestartWhen::OnFailure)
        };
        let mut row = Row::default();
        let mut delays = Vec::new();
        loop {
            let known = Facts {
                row,
                ..facts(CRASHED)
            };
            match decide(&policy, &known) {
                Verdict::After(delay, then) => {
                    delays.push(delay.as_secs());
                    row = then;
                }
                verdict => {
                    assert_eq!(verdict, Verdict::GiveUp(5));
                    break;
                }
            }
        }
        assert_eq!(delays, [2, 4, 8, 10, 10]);
        // A good run starts a new row.
        let good = Facts {
            ran: GOOD_RUN,
            row,
            ..facts(CRASHED)
        };
        let Verdict::After(delay, Row { count: 1 }) = decide(&policy, &good) else {
            panic!("{:?}", decide(&policy, &good));
        };
        assert_eq!(delay.as_secs(), 2);
    }

    #[test]
    fn a_row_without_end_never_overflows() {
        let policy = Restart {
            max: 0,
            ..Restart::new(RestartWhen::Always)
        };
        let row = Row { count: u32::MAX };
        let Verdict::After(delay, then) = next(&policy, row) else {
            panic!("it gave up");
        };
        assert_eq!((delay, then), (policy.max_delay, row));
    }
}

//! What an error of the image does: libvirt's `error_policy` and `rerror_policy`.

use images::ErrorKind;
use vmm_api::spec::ErrorPolicy;

/// What to do with a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Park it and ask the machine to pause.
    Pause,
    /// Tell the guest.
    Report,
    /// Tell the guest that all is well.
    Ignore,
}

/// The action for an error of this kind under this policy.
///
/// An image that is not active is on its way to another host: its requests wait, whatever the
/// policy says, since nothing is wrong with them.
pub fn action(policy: ErrorPolicy, kind: &ErrorKind) -> Action {
    match (policy, kind) {
        (_, ErrorKind::Inactive) => Action::Pause,
        (ErrorPolicy::Stop, _)
        | (ErrorPolicy::Enospace, ErrorKind::NoSpace | ErrorKind::Locked { .. }) => Action::Pause,
        (ErrorPolicy::Enospace | ErrorPolicy::Report, _) => Action::Report,
        (ErrorPolicy::Ignore, _) => Action::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_disks_and_lost_locks_pause_by_default() {
        let locked = ErrorKind::Locked { by: "x".into() };
        let io = ErrorKind::Io(Some(5));
        for (policy, full, lock, other) in [
            (
                ErrorPolicy::Enospace,
                Action::Pause,
                Action::Pause,
                Action::Report,
            ),
            (
                ErrorPolicy::Stop,
                Action::Pause,
                Action::Pause,
                Action::Pause,
            ),
            (
                ErrorPolicy::Report,
                Action::Report,
                Action::Report,
                Action::Report,
            ),
            (
                ErrorPolicy::Ignore,
                Action::Ignore,
                Action::Ignore,
                Action::Ignore,
            ),
        ] {
            assert_eq!(action(policy, &ErrorKind::NoSpace), full);
            assert_eq!(action(policy, &locked), lock);
            assert_eq!(action(policy, &io), other);
            assert_eq!(action(policy, &ErrorKind::Inactive), Action::Pause);
        }
    }
}

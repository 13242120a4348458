//! The decider on its own: single stories, and any story.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Test = Decider<u32>;

fn running() -> Test {
    Decider::new(EndActions::default(), false)
}

fn started(effects: &[Effect<u32>]) -> Option<&Step> {
    effects.iter().find_map(|effect| match effect {
        Effect::Start(step) => Some(step),
        _ => None,
    })
}

fn answers(effects: &[Effect<u32>]) -> Vec<(u32, bool)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Answer(who, result) => Some((*who, result.is_ok())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_pause_is_answered_when_the_machine_stands_still() {
    let mut decider = running();
    let effects = decider.ask(Ask::Client(RequestKind::Pause, 1));
    assert_eq!(started(&effects), Some(&Step::Pause));
    assert!(answers(&effects).is_empty());
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(1, true)]);
    assert!(!decider.run_state().runs());
    let effects = decider.ask(Ask::Client(RequestKind::Pause, 2));
    assert_eq!(answers(&effects), [(2, false)], "already paused");
}

#[test]
fn requests_wait_for_the_step_that_runs() {
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Pause, 1));
    assert!(decider.ask(Ask::Client(RequestKind::Resume, 2)).is_empty());
    let effects = decider.finished(Ok(()));
    assert_eq!(started(&effects), Some(&Step::Resume));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(2, true)]);
    assert!(decider.run_state().runs());
}

#[test]
fn what_the_guest_did_comes_before_waiting_clients() {
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Pause, 1));
    decider.ask(Ask::Client(RequestKind::Resume, 2));
    decider.ask(Ask::Guest(GuestNote::PowerOff));
    let effects = decider.finished(Ok(()));
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Shutdown));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(2, false)], "the domain has ended");
    assert!(matches!(effects.last(), Some(Effect::Exit(_))));
}

#[test]
fn end_actions_are_obeyed() {
    let mut decider = Decider::<u32>::new(
        EndActions {
            on_poweroff: EndAction::Restart,
            on_reboot: EndAction::Destroy,
            on_crash: EndAction::Preserve,
        },
        false,
    );
    let effects = decider.ask(Ask::Guest(GuestNote::PowerOff));
    assert_eq!(started(&effects), Some(&Step::Reset));
    assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::RunOn));
    decider.finished(Ok(()));
    let effects = decider.ask(Ask::Guest(GuestNote::Crashed("fault".into())));
    assert_eq!(started(&effects), Some(&Step::Pause));
    decider.finished(Ok(()));
    assert_eq!(decider.run_state().as_str(), "crashed");
    let effects = decider.ask(Ask::Client(RequestKind::Resume, 1));
    assert_eq!(answers(&effects), [(1, false)]);
    let effects = decider.ask(Ask::Client(RequestKind::Reset, 2));
    assert_eq!(started(&effects), Some(&Step::Reset));
    decider.finished(Ok(()));
    decider.finished(Ok(()));
    assert!(decider.run_state().runs());
    let effects = decider.ask(Ask::Guest(GuestNote::Reset));
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Rebooted));
}

#[test]
fn a_guest_that_must_be_held_and_cannot_be_is_ended() {
    let crashed = GuestNote::Crashed("fault".into());
    let failing = failure("virtio-disk0", "no space");
    for (note, reason, cause) in [
        (crashed, EndReason::Crashed, "fault"),
        (failing, EndReason::Failed, "no space"),
        (GuestNote::PowerOff, EndReason::Failed, "held"),
    ] {
        let preserve = EndAction::Preserve;
        let actions = EndActions {
            on_poweroff: preserve,
            on_reboot: preserve,
            on_crash: preserve,
        };
        let mut decider = Test::new(actions, false);
        let effects = decider.ask(Ask::Guest(note));
        assert_eq!(started(&effects), Some(&Step::Pause));
        let effects = decider.finished(Err("no clock".into()));
        let Some(Step::End(end)) = started(&effects) else {
            panic!("{effects:?}");
        };
        assert_eq!(end.reason, reason);
        assert!(end.detail.contains(cause) && end.detail.contains("no clock"));
        let effects = decider.finished(Ok(()));
        assert!(matches!(effects.last(), Some(Effect::Exit(_))));
    }
    // Who asks for a pause hears of it, and the guest runs on.
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Pause, 1));
    let effects = decider.finished(Err("no clock".into()));
    assert_eq!(answers(&effects), [(1, false)]);
    assert_eq!(started(&effects), None);
    assert!(decider.run_state().runs());
}

#[test]
fn a_saved_machine_stays_paused_until_quit_or_resume() {
    let mut decider = running();
    let effects = decider.ask(Ask::Client(RequestKind::Save, 1));
    assert_eq!(started(&effects), Some(&Step::Pause));
    let effects = decider.finished(Ok(()));
    assert_eq!(started(&effects), Some(&Step::Save));
    assert_eq!(decider.owner(), Some(&mut 1));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(1, true)]);
    assert!(!decider.run_state().runs());
    let effects = decider.ask(Ask::Client(RequestKind::Quit, 2));
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Saved));
}

#[test]
fn a_failed_save_hands_the_machine_back_as_it_was() {
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Save, 1));
    decider.finished(Ok(()));
    let effects = decider.finished(Err("no space".into()));
    assert_eq!(answers(&effects), [(1, false)]);
    assert_eq!(started(&effects), Some(&Step::Resume));
    decider.finished(Ok(()));
    assert!(decider.run_state().runs());

    let mut decider = Decider::new(EndActions::default(), true);
    decider.ask(Ask::Client(RequestKind::Save, 1));
    decider.finished(Err("no space".into()));
    assert!(matches!(decider.run_state(), RunState::Paused { reasons } if reasons.len() == 1));
}

#[test]
fn a_reset_that_came_with_the_pause_is_not_lost_in_a_save() {
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Save, 1));
    decider.ask(Ask::Guest(GuestNote::Reset));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(1, false)]);
    assert_eq!(started(&effects), Some(&Step::Resume));
    let effects = decider.finished(Ok(()));
    assert_eq!(started(&effects), Some(&Step::Reset));
}

#[test]
fn settings_change_while_it_runs_or_stands_still_but_not_under_a_job() {
    let setting = Adjustment::StatsPeriod { seconds: 5 };
    let kind = RequestKind::Adjust(setting);
    for paused in [false, true] {
        let mut decider = Decider::new(EndActions::default(), paused);
        let effects = decider.ask(Ask::Client(kind, 1));
        assert_eq!(effects, [Effect::Adjust(setting, 1)]);
        decider.ask(Ask::Client(RequestKind::Save, 2));
        let effects = decider.ask(Ask::Client(kind, 3));
        assert_eq!(answers(&effects), [(3, false)]);
    }
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Pause, 1));
    assert!(decider.ask(Ask::Client(kind, 2)).is_empty());
    let effects = decider.finished(Ok(()));
    assert!(effects.contains(&Effect::Adjust(setting, 2)), "{effects:?}");
}

#[test]
fn destroy_stops_a_job_and_then_the_machine() {
    let mut decider = running();
    decider.ask(Ask::Client(RequestKind::Save, 1));
    decider.finished(Ok(()));
    let effects = decider.ask(Ask::Client(RequestKind::Destroy, 2));
    assert_eq!(effects, [Effect::AbortJob]);
    let effects = decider.finished(Err("stopped".into()));
    assert_eq!(answers(&effects), [(1, false)]);
    let mut effects = decider.finished(Ok(()));
    assert!(
        matches!(started(&effects), Some(Step::End(_))),
        "{effects:?}"
    );
    effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(2, true)]);
}

#[test]
fn sigterm_presses_the_button_once_and_the_deadline_ends_it() {
    let mut decider = running();
    let effects = decider.ask(Ask::Terminate);
    assert!(effects.contains(&Effect::PressPower) && effects.contains(&Effect::StartDeadline));
    assert!(decider.ask(Ask::Terminate).is_empty());
    let effects = decider.ask(Ask::Deadline);
    assert!(
        matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Destroyed)
    );
}

#[test]
fn a_guest_that_restarts_on_poweroff_still_ends_on_sigterm() {
    let actions = EndActions {
        on_poweroff: EndAction::Restart,
        ..EndActions::default()
    };
    let mut decider = Decider::<u32>::new(actions, false);
    decider.ask(Ask::Terminate);
    let effects = decider.ask(Ask::Guest(GuestNote::PowerOff));
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Shutdown));
}

#[test]
fn a_reboot_is_a_power_off_that_starts_again_once() {
    let mut decider = Decider::<u32>::new(EndActions::default(), false);
    let effects = decider.ask(Ask::Client(RequestKind::Reboot, 1));
    assert!(effects.contains(&Effect::PressPower) && effects.contains(&Effect::Answer(1, Ok(()))));
    let effects = decider.ask(Ask::Guest(GuestNote::PowerOff));
    assert_eq!(started(&effects), Some(&Step::Reset));
    assert!(
        decider
            .finished(Ok(()))
            .contains(&Effect::Tell(Event::Reset))
    );
    decider.finished(Ok(()));
    assert!(decider.run_state().runs());
    // The next one is the guest's own.
    let effects = decider.ask(Ask::Guest(GuestNote::PowerOff));
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Shutdown));
}

#[test]
fn a_dump_holds_the_machine_and_does_what_was_asked_afterwards() {
    for (then, expected) in [
        (AfterDump::Resume, Step::Resume),
        (AfterDump::Reset, Step::Reset),
    ] {
        let mut decider = Decider::<u32>::new(EndActions::default(), false);
        let effects = decider.ask(Ask::Client(RequestKind::Dump(then), 1));
        assert_eq!(started(&effects), Some(&Step::Pause));
        assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::Dump(then)));
        assert_eq!(decider.job(), Some(Job::Dump));
        let effects = decider.finished(Ok(()));
        assert_eq!(answers(&effects), [(1, true)]);
        assert_eq!(started(&effects), Some(&expected));
        decider.finished(Ok(()));
        decider.finished(Ok(()));
        assert!(decider.run_state().runs() && decider.job().is_none());
    }
    // One that failed changes nothing, whatever was to come after it.
    let mut decider = Decider::<u32>::new(EndActions::default(), false);
    decider.ask(Ask::Client(RequestKind::Dump(AfterDump::Crash), 1));
    decider.finished(Ok(()));
    let effects = decider.finished(Err("no space".into()));
    assert_eq!(answers(&effects), [(1, false)]);
    assert_eq!(started(&effects), Some(&Step::Resume));
}

/// A guest may be so quick that its note comes before the driver hears that the machine runs again.
#[test]
fn what_a_guest_does_right_after_a_reset_is_not_taken_for_what_it_did_before() {
    let mut decider = Decider::<u32>::new(EndActions::default(), false);
    decider.ask(Ask::Client(RequestKind::Reset, 1));
    decider.ask(Ask::Guest(GuestNote::Crashed("before".into())));
    assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::RunOn));
    decider.ask(Ask::Guest(GuestNote::Crashed("after".into())));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(1, true)]);
    assert!(matches!(started(&effects), Some(Step::End(end)) if end.detail == "after"));
}

#[test]
fn a_later_shutdown_and_the_end_of_the_process_come_before_a_reboot() {
    for last in [Ask::Client(RequestKind::Powerdown, 2), Ask::Terminate] {
        let mut decider = Decider::<u32>::new(EndActions::default(), false);
        decider.ask(Ask::Client(RequestKind::Reboot, 1));
        decider.ask(last);
        let effects = decider.ask(Ask::Guest(GuestNote::PowerOff));
        assert!(
            matches!(started(&effects), Some(Step::End(end)) if end.reason == EndReason::Shutdown)
        );
    }
}

#[derive(Debug, Clone)]
enum Move {
    Client(RequestKind),
    Guest(u8),
    Finish(bool),
    Terminate,
    Deadline,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => prop::sample::select(RequestKind::ALL.to_vec()).prop_map(Move::Client),
        1 => prop::sample::select(vec![AfterDump::Crash, AfterDump::Reset])
            .prop_map(|then| Move::Client(RequestKind::Dump(then))),
        2 => (0u8..5).prop_map(Move::Guest),
        6 => prop::bool::weighted(0.8).prop_map(Move::Finish),
        1 => Just(Move::Terminate),
        1 => Just(Move::Deadline),
    ]
}

fn failure(device: &str, detail: &str) -> GuestNote {
    GuestNote::IoError {
        device: device.into(),
        detail: detail.into(),
    }
}

/// The errors that managers are told.
fn told(effects: &[Effect<u32>]) -> Vec<&str> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Tell(Event::Paused {
                reason: PauseReason::IoError,
                detail,
            }) => Some(detail.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn each_failing_disk_is_told_once_until_the_machine_goes_on() {
    let mut decider = running();
    decider.ask(Ask::Guest(failure("vda", "full at 1")));
    // Requests that were in flight fail while the machine is being held, and after.
    for detail in ["full at 2", "full at 3"] {
        assert!(decider.ask(Ask::Guest(failure("vda", detail))).is_empty());
    }
    assert_eq!(told(&decider.finished(Ok(()))), ["vda: full at 1"]);
    assert!(
        decider
            .ask(Ask::Guest(failure("vda", "full at 4")))
            .is_empty()
    );
    let effects = decider.ask(Ask::Guest(failure("vdb", "lock lost")));
    assert_eq!(told(&effects), ["vdb: lock lost"]);
    assert!(decider.run_state().as_str() != "running");
    let [vda, vdb] = ["vda", "vdb"].map(String::from);
    let failed = [(vda, "full at 1".into()), (vdb, "lock lost".into())];
    assert_eq!(decider.failed_disks(), failed.into());
    decider.ask(Ask::Client(RequestKind::Resume, 1));
    decider.finished(Ok(()));
    assert!(decider.run_state().runs());
    assert!(decider.failed_disks().is_empty(), "they are well again");
    decider.ask(Ask::Guest(failure("vda", "full at 1")));
    assert_eq!(told(&decider.finished(Ok(()))), ["vda: full at 1"]);
}

fn note(number: u8) -> GuestNote {
    match number {
        0 => GuestNote::PowerOff,
        1 => GuestNote::Reset,
        2 => GuestNote::Crashed("x".into()),
        3 => failure("vda", "full"),
        _ => GuestNote::DebugExit(3),
    }
}

fn actions() -> impl Strategy<Value = EndActions> {
    let action = || {
        prop::sample::select(vec![
            EndAction::Destroy,
            EndAction::Restart,
            EndAction::Preserve,
        ])
    };
    (action(), action(), action()).prop_map(|(on_poweroff, on_reboot, on_crash)| EndActions {
        on_poweroff,
        on_reboot,
        on_crash,
    })
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(|number| format!("{number}.core"))
}

fn crash(decider: &mut Test) -> Effects<u32> {
    decider.ask(Ask::Guest(GuestNote::Crashed("it panicked".into())))
}

#[test]
fn a_core_is_written_while_the_guest_is_held_and_the_action_follows() {
    for (result, expected) in [
        (Ok(()), "it panicked; its core is 1.core"),
        (
            Err("no space".to_string()),
            "it panicked; no core was written to 1.core: no space",
        ),
    ] {
        let mut decider = running().with_cores(names(1));
        assert_eq!(started(&crash(&mut decider)), Some(&Step::Pause));
        let effects = decider.finished(Ok(()));
        assert_eq!(started(&effects), Some(&Step::Core));
        assert_eq!(decider.run_state().as_str(), "crashed");
        let effects = decider.finished(result);
        let Some(Step::End(end)) = started(&effects) else {
            panic!("{effects:?}");
        };
        assert_eq!(end.reason, EndReason::Crashed);
        assert_eq!(end.detail, expected);
    }
}

#[test]
fn each_crash_of_a_guest_that_restarts_has_a_file_while_there_are_some() {
    let actions = EndActions {
        on_crash: EndAction::Restart,
        ..EndActions::default()
    };
    let mut decider: Test = Decider::new(actions, false).with_cores(names(2));
    for _ in 0..2 {
        crash(&mut decider);
        assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::Core));
        assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::Reset));
        assert_eq!(started(&decider.finished(Ok(()))), Some(&Step::RunOn));
        decider.finished(Ok(()));
        assert!(decider.run_state().runs());
    }
    assert_eq!(started(&crash(&mut decider)), Some(&Step::Reset));
}

#[test]
fn a_destroy_ends_the_writing_of_a_core() {
    let mut decider = running().with_cores(names(1));
    crash(&mut decider);
    decider.finished(Ok(()));
    let effects = decider.ask(Ask::Client(RequestKind::Destroy, 1));
    assert!(effects.contains(&Effect::AbortJob), "{effects:?}");
    let effects = decider.finished(Err("it was told to stop".into()));
    assert!(matches!(started(&effects), Some(Step::End(_))));
    let effects = decider.finished(Ok(()));
    assert_eq!(answers(&effects), [(1, true)]);
}

proptest! {
    /// At most one step runs, everybody is answered exactly once, and when all steps have been
    /// finished nobody still waits.
    #[test]
    fn every_request_is_answered_exactly_once(actions in actions(), paused: bool, cores in 0..3_usize,
            story in prop::collection::vec(moves(), 1..60)) {
        let mut decider = Decider::new(actions, paused).with_cores(names(cores));
        let mut answered: BTreeMap<u32, u32> = BTreeMap::new();
        let mut running = 0;
        let mut exited = false;
        let mut asked = 0;
        let finish_all = std::iter::repeat_n(Move::Finish(true), 200);
        for (number, step) in (0u32..).zip(story.into_iter().chain(finish_all)) {
            let effects = match step {
                _ if exited => break,
                Move::Client(kind) => {
                    asked += 1;
                    answered.insert(number, 0);
                    decider.ask(Ask::Client(kind, number))
                }
                Move::Guest(kind) => decider.ask(Ask::Guest(note(kind))),
                Move::Finish(_) if running == 0 => Vec::new(),
                Move::Finish(good) => {
                    running -= 1;
                    decider.finished(if good { Ok(()) } else { Err("no".into()) })
                }
                Move::Terminate => decider.ask(Ask::Terminate),
                Move::Deadline => decider.ask(Ask::Deadline),
            };
            for effect in effects {
                match effect {
                    Effect::Start(_) => running += 1,
                    // The driver answers this one when it has done so.
                    Effect::Answer(who, _) | Effect::Adjust(_, who) => *answered.entry(who).or_default() += 1,
                    Effect::Exit(_) => exited = true,
                    _ => {}
                }
            }
            prop_assert!(running <= 1, "{running} steps at once");
            if let RunState::Paused { reasons } = decider.run_state() {
                prop_assert!(!reasons.is_empty());
            }
        }
        prop_assert!(exited || running == 0);
        prop_assert_eq!(answered.len(), asked);
        for (who, times) in answered {
            prop_assert_eq!(times, 1, "request {} was answered {} times", who, times);
        }
    }
}

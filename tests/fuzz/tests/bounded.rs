//! Every fuzz body on its kept findings, its seeds, and a bounded number of changed ones: the same ones on
//! every run. `VM_FUZZ_SEED` begins elsewhere, `VM_FUZZ_ROUNDS` multiplies.
//!
//! A body whose inputs are all turned away at its door finds nothing either, so each must be passed by the
//! first of its seeds, and by changed ones.

use fuzz::TARGETS;
use fuzz::mutate::{Random, mutate};
use std::sync::atomic::{AtomicU32, Ordering};

/// How often a body's first seed is run until it gets to the heart of the matter.
const MOST_TRIES: u32 = 50;
static PANICS: AtomicU32 = AtomicU32::new(0);

fn number(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One test for all: a panic of a body's worker thread must be seen, and told from other tests'.
#[test]
fn no_body_finds_anything() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    let check = |target: &fuzz::Target, what: &str, input: &[u8]| {
        let outcome = std::panic::catch_unwind(|| (target.body)(input));
        let threads = PANICS.swap(0, Ordering::SeqCst);
        assert!(outcome.is_ok() && threads == 0, "{}: {what}", target.name);
        outcome.is_ok_and(|deep| deep)
    };
    let mut shallow = Vec::new();
    for target in TARGETS {
        for (path, input) in target.kept("regressions") {
            check(target, &path.display().to_string(), &input);
        }
        let inputs = target.inputs();
        for (number, input) in inputs.iter().enumerate() {
            check(target, &format!("input {number}"), input);
        }
        // Workers of bodies have their own pace: what they did not come to in one run they do in another.
        let seeds = (target.seeds)();
        let first = seeds.first().expect("a seed");
        if !(0..MOST_TRIES).any(|_| check(target, "the first seed", first)) {
            shallow.push(format!("{}: its first seed", target.name));
        }
        let mut random = Random::new(number("VM_FUZZ_SEED", 7));
        let rounds = u64::from(target.rounds) * number("VM_FUZZ_ROUNDS", 1);
        let deep = (0..rounds)
            .filter(|round| {
                let input = mutate(&mut random, &inputs);
                check(target, &format!("round {round}"), &input)
            })
            .count();
        if deep == 0 {
            shallow.push(format!("{}: all changed inputs", target.name));
        }
        println!(
            "{}: nothing found, {deep} of {rounds} rounds deep",
            target.name
        );
    }
    assert!(
        shallow.is_empty(),
        "these do not get to the heart of the matter: {shallow:#?}"
    );
}

#[test]
fn every_target_has_a_wrapper_for_cargo_fuzz() {
    let manifest = include_str!("../Cargo.toml");
    for target in TARGETS {
        let wrapper = format!("fuzz_targets/{}.rs", target.name);
        assert!(
            manifest.contains(&wrapper),
            "{wrapper} is not in Cargo.toml"
        );
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&wrapper);
        let text = std::fs::read_to_string(path).expect("the wrapper");
        assert!(text.contains(&format!("\"{}\"", target.name)), "{wrapper}");
        assert!(
            !target.inputs().is_empty(),
            "{} has nothing to begin with",
            target.name
        );
    }
}

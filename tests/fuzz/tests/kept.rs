//! Inputs that are kept as files. Each body has some that get to the heart of what it is about, so that a
//! change of how a script or a format is read cannot leave its fuzzing at the door: the seeds are made by the
//! code of today, these were made by that of another day.
//!
//! `UPDATE_CORPUS=1` makes them anew: the smallest seed that gets there, and the smallest changed one.

use fuzz::mutate::{Random, mutate};
use fuzz::{TARGETS, Target};
use std::fs;
use std::path::Path;

/// The largest file that is kept.
const LARGEST: usize = 16 << 10;
/// How often an input is run until it gets to the heart of the matter: workers of bodies have their own pace.
const TRIES: u32 = 50;
/// Changed inputs that are looked at for one that gets there too.
const CHANGED: u32 = 200;

fn is_deep(target: &Target, input: &[u8]) -> bool {
    (0..TRIES).any(|_| (target.body)(input))
}

/// Inputs worth keeping, by name.
fn chosen(target: &Target) -> Vec<(&'static str, Vec<u8>)> {
    let smallest = |mut inputs: Vec<Vec<u8>>| {
        inputs.retain(|input| input.len() <= LARGEST && is_deep(target, input));
        inputs.into_iter().min_by_key(Vec::len)
    };
    let seeds = (target.seeds)();
    let mut random = Random::new(11);
    let changed = (0..CHANGED).map(|_| mutate(&mut random, &seeds));
    let changed = changed.filter(|input| input.len() <= LARGEST && (target.body)(input));
    let changed = changed.min_by_key(Vec::len);
    let proper = smallest(seeds.clone()).map(|input| ("proper", input));
    proper
        .into_iter()
        .chain(changed.map(|input| ("changed", input)))
        .collect()
}

#[test]
fn every_body_has_kept_inputs_that_get_to_its_heart() {
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        for target in TARGETS {
            let folder = target.folder("corpus");
            fs::create_dir_all(&folder).expect("a folder");
            for (name, input) in chosen(target) {
                fs::write(folder.join(name), input).expect("written");
            }
        }
    }
    for target in TARGETS {
        let kept = target.kept("corpus");
        assert!(!kept.is_empty(), "corpus/{} has no input", target.name);
        for (path, input) in kept.iter().chain(&target.kept("regressions")) {
            let path = path.display();
            assert!(input.len() <= LARGEST, "{path}: {} bytes", input.len());
        }
        for (path, input) in kept {
            let path = path.display();
            assert!(
                is_deep(target, &input),
                "{path} is turned away: UPDATE_CORPUS=1 makes another"
            );
        }
    }
}

#[test]
fn every_folder_of_inputs_is_some_bodys() {
    for kind in ["corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = name.to_str().and_then(fuzz::find);
            assert!(known.is_some(), "{kind}/{} is no body's", name.display());
        }
    }
}

//! The tables agree with themselves, and choosing follows the rules on made-up hosts.

use super::*;
use crate::spec::{CpuModel, CpuSpec, FeaturePolicy, FeatureRule};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn host(model: &str) -> HostCpu {
    let model = find_model(model).expect("a model");
    let more = Set::of(["x2apic", "kvmclock", "invtsc", "hypervisor"]).expect("names");
    let letters = match model.vendor {
        Some(Vendor::Amd) => *b"AuthenticAMD",
        _ => *b"GenuineIntel",
    };
    HostCpu::made_of(&model.set().union(&more), letters, model.signature())
}

fn named(name: &str, rules: &[(&str, FeaturePolicy)]) -> CpuSpec {
    CpuSpec {
        model: CpuModel::Named {
            name: name.into(),
            beyond: false,
        },
        features: rules
            .iter()
            .map(|(name, policy)| FeatureRule {
                name: (*name).into(),
                policy: *policy,
            })
            .collect(),
        ..CpuSpec::fixed(1)
    }
}

#[test]
fn every_name_is_there_once_and_every_bit_has_room() {
    let names: Vec<_> = Feature::all().map(Feature::name).collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(WORDS.iter().all(|word| word.names.len() <= 32));
    for feature in Feature::all() {
        assert_eq!(Feature::named(feature.name()), Some(feature));
    }
    assert_eq!(Feature::named("-"), None);
}

#[test]
fn bits_lie_where_the_manuals_say() {
    // (name, leaf, subleaf, register, bit): Intel SDM 2A table 3-8 and AMD APM 3 appendix E.
    let known = [
        ("sse4.2", 1, 0, Register::Ecx, 20),
        ("hypervisor", 1, 0, Register::Ecx, 31),
        ("sse2", 1, 0, Register::Edx, 26),
        ("arat", 6, 0, Register::Eax, 2),
        ("avx2", 7, 0, Register::Ebx, 5),
        ("smap", 7, 0, Register::Ebx, 20),
        ("avx512vl", 7, 0, Register::Ebx, 31),
        ("umip", 7, 0, Register::Ecx, 2),
        ("la57", 7, 0, Register::Ecx, 16),
        ("rdpid", 7, 0, Register::Ecx, 22),
        ("md-clear", 7, 0, Register::Edx, 10),
        ("spec-ctrl", 7, 0, Register::Edx, 26),
        ("arch-capabilities", 7, 0, Register::Edx, 29),
        ("ssbd", 7, 0, Register::Edx, 31),
        ("avx512-bf16", 7, 1, Register::Eax, 5),
        ("xsaves", 0xd, 1, Register::Eax, 3),
        ("lahf_lm", 0x8000_0001, 0, Register::Ecx, 0),
        ("topoext", 0x8000_0001, 0, Register::Ecx, 22),
        ("nx", 0x8000_0001, 0, Register::Edx, 20),
        ("lm", 0x8000_0001, 0, Register::Edx, 29),
        ("invtsc", 0x8000_0007, 0, Register::Edx, 8),
        ("ibpb", 0x8000_0008, 0, Register::Ebx, 12),
        ("amd-ssbd", 0x8000_0008, 0, Register::Ebx, 24),
        ("svme-addr-chk", 0x8000_000a, 0, Register::Edx, 28),
        ("auto-ibrs", 0x8000_0021, 0, Register::Eax, 8),
        ("taa-no", 0x10a, 0, Register::ArchCapabilities, 8),
    ];
    for (name, leaf, subleaf, register, bit) in known {
        let set = Set::of([name]).expect("a name");
        assert_eq!(set.word(leaf, subleaf, register), Some(1 << bit), "{name}");
    }
}

#[test]
fn models_name_only_what_there_is() {
    let mut seen = BTreeSet::new();
    for model in MODELS {
        assert!(seen.insert(model.name), "{} twice", model.name);
        assert_eq!(model.unknown(), Vec::<&str>::new(), "{}", model.name);
        assert!(model.brand().len() <= 47, "{}", model.brand());
        let v1 = find_model("x86-64-v1").expect("it").set();
        assert!(v1.is_within(&model.set()), "{}", model.name);
    }
}

#[test]
fn models_have_what_their_features_need() {
    for model in MODELS {
        let host = host(model.name);
        // A rule that changes nothing makes the needs be looked at.
        let rules = [("fpu", FeaturePolicy::Require)];
        let chosen = choose(&named(model.name, &rules), &host).expect("its own host");
        assert!(chosen.dropped.is_empty(), "{}: {chosen:?}", model.name);
    }
}

#[test]
fn models_have_the_fingerprints_they_were_released_with() {
    // A released model never changes: its guests must find the same processor on every host.
    let lines: String = MODELS
        .iter()
        .map(|model| {
            let words: Vec<String> = WORDS
                .iter()
                .map(|word| model.set().word(word.leaf, word.subleaf, word.register))
                .map(|bits| format!("{:x}", bits.unwrap_or(0)))
                .collect();
            let (name, signature) = (model.name, model.signature());
            format!("{name} {signature:x} {}\n", words.join(" "))
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cpu/golden/models.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &lines).expect("write");
    }
    assert_eq!(lines, include_str!("golden/models.txt"));
}

#[test]
fn signatures_are_those_of_the_processors() {
    let signature = |name: &str| find_model(name).map(Model::signature);
    assert_eq!(signature("Haswell"), Some(0x306c4));
    assert_eq!(signature("Skylake-Server"), Some(0x50654));
    assert_eq!(signature("EPYC"), Some(0x80_0f12));
    assert_eq!(signature("EPYC-Milan"), Some(0xa0_0f11));
    assert_eq!(host("EPYC-Genoa").signature(), (25, 17, 0));
}

#[test]
fn a_model_shows_itself_and_no_more() {
    let chosen = choose(&named("Westmere", &[]), &host("Haswell")).expect("it runs");
    assert!(chosen.exact);
    let expected = find_model("Westmere").expect("it").set();
    let extra = Set::of(["hypervisor", "x2apic", "kvmclock"]).expect("names");
    assert_eq!(chosen.set, expected.union(&extra));
}

#[test]
fn every_missing_feature_is_named_with_a_model_that_works() {
    let trouble = choose(&named("Haswell", &[]), &host("IvyBridge")).expect_err("too old");
    let [Trouble::Missing { set, instead }] = trouble.as_slice() else {
        panic!("{trouble:?}");
    };
    assert!(set.has("avx2") && set.has("hle") && set.has("movbe") && !set.has("avx"));
    assert_eq!(*instead, Some("IvyBridge"));
    let words = trouble.first().expect("one").to_string();
    assert!(words.contains("avx2") && words.contains("rtm"), "{words}");
}

#[test]
fn policies_do_what_they_say() {
    use FeaturePolicy::{Disable, Forbid, Force, Optional, Require};
    let old = host("IvyBridge");
    let with = |name: &'static str, policy| choose(&named("Westmere", &[(name, policy)]), &old);
    let brought = with("avx", Require).expect("offered").set;
    assert!(brought.has("avx") && brought.has("xsave"));
    assert!(with("avx", Force).expect("offered").set.has("avx"));
    assert!(with("avx", Optional).expect("offered").set.has("avx"));
    let dropped = with("avx2", Optional).expect("no reason to refuse");
    assert!(!dropped.set.has("avx2") && dropped.dropped.has("avx2"));
    assert!(!with("aes", Disable).expect("can be hidden").set.has("aes"));
    assert!(matches!(
        with("avx2", Force).expect_err("never set")[..],
        [Trouble::Missing { .. }]
    ));
    assert!(matches!(
        with("avx", Forbid).expect_err("it has it")[..],
        [Trouble::Forbidden(_)]
    ));
    assert!(with("avx2", Forbid).is_ok());
    assert!(matches!(
        with("avx3", Require).expect_err("no such")[..],
        [Trouble::UnknownFeature(0)]
    ));
}

#[test]
fn what_needs_something_goes_with_it() {
    use FeaturePolicy::{Disable, Require};
    let new = host("Skylake-Server");
    let chosen = choose(&named("Skylake-Server", &[("avx", Disable)]), &new).expect("fine");
    for name in ["avx", "avx2", "fma", "f16c", "avx512f", "avx512vl"] {
        assert!(!chosen.set.has(name), "{name}");
    }
    assert!(chosen.set.has("xsave"));
    let rules = [("avx", Disable), ("avx2", Require)];
    let trouble = choose(&named("Skylake-Server", &rules), &new).expect_err("a contradiction");
    assert!(matches!(trouble[..], [Trouble::Needs(..)]), "{trouble:?}");
}

#[test]
fn only_a_guest_that_stays_sees_an_unchanging_clock() {
    let spec = |model| CpuSpec {
        model,
        ..CpuSpec::fixed(1)
    };
    let host = host("EPYC");
    let shows = |model| choose(&spec(model), &host).expect("fine").set.has("invtsc");
    assert!(shows(CpuModel::HostPassthrough { migratable: false }));
    assert!(!shows(CpuModel::HostPassthrough { migratable: true }));
    assert!(!shows(CpuModel::Default));
}

#[test]
fn a_minimum_gives_what_the_host_has_beyond() {
    let mut spec = named("Westmere", &[]);
    spec.model = CpuModel::Named {
        name: "Westmere".into(),
        beyond: true,
    };
    let chosen = choose(&spec, &host("Haswell")).expect("fine");
    assert!(chosen.set.has("avx2") && !chosen.set.has("invtsc"));
    assert!(choose(&spec, &host("Nehalem")).is_err());
}

#[test]
fn a_hosts_capabilities_register_is_all_or_nothing() {
    use FeaturePolicy::{Disable, Require};
    let model = find_model("Cooperlake").expect("it");
    let bits = Set::of(["rdctl-no", "mds-no", "hypervisor"]).expect("names");
    let host = HostCpu::made_of(
        &model.set().union(&bits),
        *b"GenuineIntel",
        model.signature(),
    );
    let with = |name: &str, rules: &[(&str, FeaturePolicy)]| choose(&named(name, rules), &host);
    assert!(with("Cooperlake", &[]).expect("fine").set.has("rdctl-no"));
    assert!(with("Cooperlake", &[("mds-no", Require)]).is_ok());
    assert!(with("Cooperlake", &[("taa-no", Require)]).is_err());
    assert!(with("Cooperlake", &[("mds-no", Disable)]).is_err());
    let none = with("Cooperlake", &[("arch-capabilities", Disable)]).expect("fine");
    assert!(!none.set.has("rdctl-no"));
    assert!(with("Westmere", &[("mds-no", Require)]).is_err());
}

#[test]
fn address_bits_stay_within_the_host() {
    let with = |bits| {
        let spec = CpuSpec {
            physical_bits: Some(bits),
            ..CpuSpec::fixed(1)
        };
        choose(&spec, &host("EPYC")).is_ok()
    };
    assert!(with(40) && with(38) && !with(41) && !with(37));
}

#[test]
fn a_host_is_recognised_by_its_own_model() {
    for model in MODELS.iter().filter(|model| model.vendor.is_some()) {
        let host = host(model.name);
        let chosen = choose(&CpuSpec::fixed(1), &host).expect("its own");
        let vendor = model.vendor.filter(|vendor| *vendor != Vendor::Hygon);
        let (found, more, less) = chosen.as_model(vendor).expect("some");
        assert!(less.is_empty());
        assert_eq!(
            found.set().union(&more),
            chosen.set.intersection(&Set::processor())
        );
        assert!(found.set().count() >= model.set().count(), "{}", model.name);
    }
}

#[test]
fn a_host_that_hides_a_little_keeps_its_name() {
    let mut set = find_model("EPYC").expect("it").set();
    for name in ["vme", "xsavec", "osvw", "misalignsse", "fxsr_opt"] {
        set.remove(Feature::named(name).expect("a name"));
    }
    let found = |model: Option<&Model>| model.map(|model| model.name);
    assert_eq!(found(nearest(&set, Some(Vendor::Amd))), Some("EPYC"));
    assert_eq!(found(closest(&set, Some(Vendor::Amd))), Some("x86-64-v3"));
    for model in MODELS {
        let own = nearest(&model.set(), model.vendor).expect("one");
        assert_eq!(own.set(), model.set(), "{}", model.name);
    }
}

proptest! {
    #[test]
    fn nothing_is_shown_that_is_not_offered(
        at in 0..MODELS.len(),
        offered in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        rules in prop::collection::vec((any::<prop::sample::Index>(), 0u8..5), 0..8),
        passthrough in any::<bool>(),
    ) {
        let all: Vec<Feature> = Feature::all().collect();
        let mut set = Set::default();
        for index in offered {
            set.insert(*index.get(&all));
        }
        let host = HostCpu::made_of(&set, *b"GenuineIntel", 0x306c4);
        let mut spec = named(MODELS[at].name, &[]);
        if passthrough {
            spec.model = CpuModel::Default;
        }
        for (index, policy) in rules {
            let policies = [FeaturePolicy::Force, FeaturePolicy::Require, FeaturePolicy::Optional,
                FeaturePolicy::Disable, FeaturePolicy::Forbid];
            spec.features.push(FeatureRule {
                name: index.get(&all).name().into(),
                policy: policies[usize::from(policy)],
            });
        }
        match choose(&spec, &host) {
            Ok(chosen) => prop_assert!(chosen.set.is_within(&host.set())),
            Err(trouble) => prop_assert!(!trouble.is_empty()),
        }
    }
}

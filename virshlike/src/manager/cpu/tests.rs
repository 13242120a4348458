//! CPUs settled on made-up hosts.

use super::*;
use crate::xml::Document;
use vmm_api::cpu::find_model;

fn host(name: &str) -> HostCpu {
    let model = find_model(name).expect("a model");
    let more = Set::of(["x2apic", "umip", "invtsc"]).expect("names");
    let letters = match model.vendor {
        Some(model::Vendor::Amd) => *b"AuthenticAMD",
        _ => *b"GenuineIntel",
    };
    HostCpu::made_of(&model.set().union(&more), letters, model.signature())
}

fn definition(cpu: &str) -> model::Domain {
    let text = format!(
        "<domain type='kvm'>\n<name>a</name>\n<memory>65536</memory>\n<vcpu>4</vcpu>\n\
         <os><type>hvm</type><kernel>/k</kernel></os>\n{cpu}\n</domain>\n"
    );
    let document = Document::parse(&text, "a.xml").expect("XML");
    let (model, _) = model::Domain::parse(&document).expect("a definition");
    assert!(
        model.refusals_at_start().is_empty(),
        "{:?}",
        model.refusals_at_start()
    );
    model
}

fn settle_on(cpu: &str, name: &str) -> Result<Settled> {
    let place = Place { file: "a.xml" };
    settle(&definition(cpu), &place, || Ok(host(name)))
}

#[test]
fn a_plain_cpu_asks_nobody() {
    let place = Place { file: "a.xml" };
    for cpu in [
        "",
        "<cpu mode='host-passthrough' check='none'/>",
        "<cpu mode='maximum'/>",
        "<cpu><topology sockets='1' dies='1' cores='2' threads='2'/></cpu>",
    ] {
        let nobody = || panic!("KVM was asked for {cpu}");
        let settled = settle(&definition(cpu), &place, nobody).expect("plain");
        assert_eq!(settled.live, None);
    }
}

#[test]
fn what_a_host_lacks_is_named_with_the_line_and_a_model_that_works() {
    let cpu = "<cpu mode='custom' match='exact'>\n<model>Skylake-Server</model>\n</cpu>";
    let error = settle_on(cpu, "Haswell").expect_err("too old");
    let cause = error.causes.first().expect("a cause");
    assert!(
        cause.starts_with("a.xml:6:1: this host's KVM does not offer: "),
        "{cause}"
    );
    for name in ["avx512f", "clwb", "smap", "rdseed"] {
        assert!(cause.contains(name), "{name}: {cause}");
    }
    assert!(
        error
            .hints
            .iter()
            .any(|hint| hint.contains("<model>Haswell</model>"))
    );
}

#[test]
fn a_host_model_names_what_the_host_has_and_runs_there() {
    let settled = settle_on("<cpu mode='host-model'/>", "Westmere-IBRS").expect("its own");
    let live = settled.live.expect("expanded");
    assert_eq!(live.model, "Westmere-IBRS");
    assert_eq!(live.vendor.as_deref(), Some("Intel"));
    assert_eq!(live.require, ["x2apic", "hypervisor", "umip"]);
    assert!(live.disable.is_empty());
    assert_eq!(
        settled.spec.model,
        CpuModel::Named {
            name: "Westmere-IBRS".into(),
            beyond: false
        }
    );
    let cpu = "<cpu mode='host-model'><feature policy='disable' name='aes'/></cpu>";
    let live = settle_on(cpu, "Westmere-IBRS")
        .expect("less")
        .live
        .expect("expanded");
    assert_eq!(live.disable, ["aes"]);
}

#[test]
fn a_host_model_says_what_the_host_hides() {
    let place = Place { file: "a.xml" };
    let model = find_model("EPYC").expect("a model");
    let hidden = Set::of(["vme", "osvw"]).expect("names");
    let host = HostCpu::made_of(&model.set().minus(&hidden), *b"AuthenticAMD", 0x80_0f12);
    let domain = definition("<cpu mode='host-model'/>");
    let live = settle(&domain, &place, || Ok(host)).expect("fine").live;
    let live = live.expect("expanded");
    assert_eq!(live.model, "EPYC");
    assert_eq!(live.disable, ["vme", "osvw"]);
}

#[test]
fn a_cpu_that_nobody_chose_always_starts() {
    let cpu = "<cpu mode='custom' match='exact'><model>qemu64</model>\
               <feature policy='require' name='svm'/></cpu>";
    let settled = settle_on(cpu, "EPYC").expect("the oldest");
    assert!(
        settled
            .warnings
            .iter()
            .any(|warning| warning.contains("svm"))
    );
    assert_eq!(settled.live.expect("expanded").model, "x86-64-v1");
    let place = Place { file: "a.xml" };
    let poor = HostCpu::made_of(
        &Set::of(["fpu", "tsc", "lm"]).expect("names"),
        *b"GenuineIntel",
        0x306c4,
    );
    let settled = settle(&definition(cpu), &place, || Ok(poor)).expect("even there");
    assert!(
        settled
            .warnings
            .iter()
            .any(|warning| warning.contains("sse2"))
    );
}

#[test]
fn strict_vendor_and_width_are_looked_at() {
    let strict = "<cpu mode='custom' match='strict'><model>Westmere</model></cpu>";
    let error = settle_on(strict, "Haswell").expect_err("it has more");
    assert!(
        error.causes.iter().any(|cause| cause.contains("avx2")),
        "{error:?}"
    );
    let own = "<cpu mode='custom' match='strict'><model>Westmere</model>\
               <feature policy='disable' name='umip'/></cpu>";
    assert!(settle_on(own, "Westmere").is_ok());
    let vendor = "<cpu mode='custom'><model>x86-64-v1</model><vendor>AMD</vendor></cpu>";
    assert!(settle_on(vendor, "Haswell").is_err());
    assert!(settle_on(vendor, "EPYC").is_ok());
    let limit = "<cpu mode='host-passthrough'><maxphysaddr mode='passthrough' limit='39'/></cpu>";
    let settled = settle_on(limit, "EPYC").expect("fine");
    assert_eq!(settled.spec.physical_bits, Some(39));
    let wide = "<cpu mode='host-passthrough'><maxphysaddr mode='emulate' bits='52'/></cpu>";
    assert!(settle_on(wide, "EPYC").is_err());
}

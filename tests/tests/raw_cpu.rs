//! The processor that the test guest finds on this machine's KVM, and as many of them as there can be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;

use tests::machine::Builder;
use tests::{have_kvm, skip_unless};
use vmm_api::cpu::{HostCpu, Set, find_model};
use vmm_api::spec::{CpuModel, CpuTopology, FeaturePolicy, FeatureRule, MAX_VCPUS};

const NO_KVM: &str = "/dev/kvm cannot be opened";
const NATIVE: &str = "this KVM does not show ring 3 the CPUID that it was given";

/// What `vmm` says that this host can show guests.
fn host() -> io::Result<HostCpu> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    // The child gets it under its own number.
    rustix::io::fcntl_setfd(&kvm, rustix::io::FdFlags::empty())?;
    let number = kvm.as_raw_fd().to_string();
    let output = Command::new(tests::program::vmm()?)
        .args(["--cpuid-fd", &number])
        .output()?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let words = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("{error}: {words}"))
    })
}

/// Whether the guest, which works in ring 3, read the processor's own CPUID: a paravirtual KVM runs
/// that instruction without asking anybody.
fn is_native(answers: &BTreeMap<(u32, u32), [u32; 4]>) -> bool {
    answers[&(1, 0)][0] == core::arch::x86_64::__cpuid(1).eax
}

/// The registers that the guest read, by leaf and subleaf.
fn cpuid_of(builder: Builder) -> BTreeMap<(u32, u32), [u32; 4]> {
    let mut machine = builder.start().unwrap();
    machine.expect_pass();
    let mut answers = BTreeMap::new();
    for line in machine.serial.so_far().lines() {
        let Some(rest) = line.trim().strip_prefix("cpuid ") else {
            continue;
        };
        let hex = |text: &str| u32::from_str_radix(text, 16).unwrap();
        let mut words = rest.split(' ');
        let (leaf, subleaf) = words.next().unwrap().split_once('.').unwrap();
        let registers: Vec<u32> = words.map(hex).collect();
        answers.insert((hex(leaf), hex(subleaf)), registers.try_into().unwrap());
    }
    answers
}

#[test]
fn a_guest_reads_the_model_that_it_was_given() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let host = host().unwrap().set();
    let model = find_model("x86-64-v1").unwrap();
    skip_unless!(
        model.set().is_within(&host),
        "this KVM does not offer the oldest baseline: {:?}",
        model.set().minus(&host)
    );
    let answers = cpuid_of(Builder::guest("test=cpuid").adjust(|spec| {
        spec.cpus.model = CpuModel::Named {
            name: "x86-64-v1".into(),
            beyond: false,
        };
        spec.cpus.features = vec![FeatureRule {
            name: "mmx".into(),
            policy: FeaturePolicy::Disable,
        }];
        spec.cpus.vendor_id = Some("MadeOfLetter".into());
    }));
    skip_unless!(!is_native(&answers), "{NATIVE}");
    let first = answers[&(1, 0)];
    assert_eq!(first[0], model.signature());
    let expected = model.set().word(1, 0, vmm_api::cpu::Register::Edx).unwrap();
    let mmx = Set::of(["mmx"]).unwrap();
    let mmx = mmx.word(1, 0, vmm_api::cpu::Register::Edx).unwrap();
    assert_eq!(first[3], expected & !mmx);
    let (hypervisor, x2apic) = (1 << 31, 1 << 21);
    assert_eq!(first[2] & !x2apic, hypervisor, "no other bit of the host");
    assert_eq!(answers[&(7, 0)][1..], [0, 0, 0]);
    assert_eq!(answers[&(0, 0)][1], u32::from_le_bytes(*b"Made"));
}

#[test]
fn a_guest_finds_the_topology_of_its_definition() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let answers = cpuid_of(Builder::guest("test=cpuid").cpus(12).adjust(|spec| {
        spec.cpus.topology = Some(CpuTopology {
            sockets: 2,
            dies: 1,
            cores: 3,
            threads: 2,
        });
    }));
    // A host's own signature proves nothing where the guest is shown the same.
    let native = core::arch::x86_64::__cpuid(1).ebx >> 16 & 0xff;
    let shown = answers[&(1, 0)][1] >> 16 & 0xff;
    skip_unless!(shown != native || native == 8, "{NATIVE}");
    // Six logical processors a package take eight identifiers.
    assert_eq!(answers[&(1, 0)][1] >> 16 & 0xff, 8);
    if answers[&(0, 0)][0] >= 0xb {
        assert_eq!(answers[&(0xb, 0)][..3], [1, 2, 0x100]);
        assert_eq!(answers[&(0xb, 1)][..3], [3, 6, 0x201]);
    }
}

#[test]
fn a_machine_that_the_host_cannot_show_is_refused_by_name() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let lacking = find_model("SapphireRapids").unwrap().set();
    let lacking = lacking.minus(&host().unwrap().set());
    let first = lacking.names().first().copied();
    skip_unless!(first.is_some(), "this host has everything");
    let mut machine = Builder::guest("test=hello")
        .adjust(|spec| {
            spec.cpus.model = CpuModel::Named {
                name: "SapphireRapids".into(),
                beyond: false,
            };
        })
        .start()
        .unwrap();
    assert_ne!(machine.wait().unwrap(), 0);
    let detail = machine.end().unwrap().detail;
    assert!(detail.contains(first.unwrap()), "{detail}");
}

#[test]
fn as_many_vcpus_as_there_can_be_start() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let most = host().unwrap().max_vcpus;
    skip_unless!(most >= MAX_VCPUS, "this KVM allows {most} vCPUs");
    let mut machine = Builder::guest("test=idle").cpus(MAX_VCPUS).start().unwrap();
    machine.expect("ready");
    let tasks = fs::read_dir(format!("/proc/{}/task", machine.pid())).unwrap();
    let names: Vec<String> = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .collect();
    for index in 0..MAX_VCPUS {
        let name = format!("vcpu{index}\n");
        assert!(names.contains(&name), "{name}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_string()
    };
    println!("{} threads, {}", field("Threads:"), field("VmRSS:"));
    machine.kill().unwrap();
}

//! CPUID tables from made-up hosts.

use super::*;
use proptest::prelude::*;
use vmm_api::spec::CpuModel;

/// Bits that the tables are looked at for.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const INVARIANT_TSC: u32 = 1 << 8;
const PERFCTR_CORE: u32 = 1 << 23;

fn entry(leaf: u32, subleaf: u32, registers: [u32; 4]) -> Leaf {
    let [eax, ebx, ecx, edx] = registers;
    Leaf {
        leaf,
        subleaf,
        indexed: matches!(leaf, 4 | 7 | 0xb | 0xd | 0x8000_001d),
        eax,
        ebx,
        ecx,
        edx,
    }
}

fn host_of(leaves: Vec<Leaf>, tsc_deadline: bool) -> HostCpu {
    HostCpu {
        leaves,
        tsc_deadline,
        ..HostCpu::default()
    }
}

fn host() -> Vec<Leaf> {
    vec![
        entry(0, 0, [0x1f, 0, 0, 0]),
        entry(1, 0, [0x600f20, 0x0310_0800, 1 << 21, HTT]),
        entry(4, 0, [0x121, 0, 0, 0]),
        entry(4, 3, [0x163, 0, 0, 0]),
        entry(0xa, 0, [0x0730_0404, 0, 0, 0x603]),
        entry(0xb, 0, [1, 2, 0x100, 7]),
        entry(0x4000_0000, 0, [0, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x8000_0001, 0, [0, 0, TOPOEXT | PERFCTR_CORE, 0]),
        entry(0x8000_0007, 0, [0, 0, 0, INVARIANT_TSC]),
        entry(0x8000_0008, 0, [0x3030, 0, 0x5007, 0]),
        entry(0x8000_001e, 0, [3, 0x101, 0, 0]),
    ]
}

fn table(leaves: Vec<Leaf>, spec: &CpuSpec, tsc_deadline: bool) -> Table {
    Table::new(&host_of(leaves, tsc_deadline), spec).expect("a table")
}

fn cpus(sockets: u32, dies: u32, cores: u32, threads: u32) -> CpuSpec {
    let max = sockets * dies * cores * threads;
    CpuSpec {
        topology: Some(CpuTopology {
            sockets,
            dies,
            cores,
            threads,
        }),
        ..CpuSpec::fixed(max)
    }
}

fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    *table
        .iter()
        .find(|entry| entry.function == function && entry.index == index)
        .expect("the leaf is there")
}

#[test]
fn every_guest_is_told_that_it_is_one() {
    let table = table(host(), &CpuSpec::fixed(1), true).for_vcpu(0);
    let leaf = find(&table, 1, 0);
    assert_eq!(leaf.ecx, HYPERVISOR | TSC_DEADLINE | 1 << 21);
    assert_eq!(leaf.edx & HTT, 0, "one thread per package");
    assert_eq!(find(&table, 0x4000_0000, 0).eax, 0x4000_0001);
    assert_eq!(find(&table, 0xa, 0).eax, 0, "no performance counters");
    assert_eq!(find(&table, 0x8000_0001, 0).ecx & PERFCTR_CORE, 0);
}

#[test]
fn the_invariant_tsc_is_for_guests_that_never_move() {
    let shows = |model| {
        let spec = CpuSpec {
            model,
            ..CpuSpec::fixed(1)
        };
        let table = table(host(), &spec, true).for_vcpu(0);
        find(&table, 0x8000_0007, 0).edx & INVARIANT_TSC != 0
    };
    assert!(!shows(CpuModel::Default));
    assert!(!shows(CpuModel::HostPassthrough { migratable: true }));
    assert!(shows(CpuModel::HostPassthrough { migratable: false }));
}

#[test]
fn a_leaf_that_the_host_has_not_is_not_invented() {
    let poor: Vec<_> = host().into_iter().filter(|e| e.leaf != 0xb).collect();
    let table = table(poor, &CpuSpec::fixed(2), false).for_vcpu(1);
    assert!(table.iter().all(|entry| entry.function != 0xb));
    assert_eq!(find(&table, 1, 0).ecx & TSC_DEADLINE, 0);
}

#[test]
fn vcpus_differ_by_their_identifier() {
    let table = table(host(), &cpus(2, 1, 3, 2), true);
    // 2 threads take 1 bit, 3 cores 2 bits, so the second package starts at 8.
    let second_package = table.for_vcpu(6);
    assert_eq!(find(&second_package, 1, 0).ebx >> 24, 8);
    assert_eq!(find(&second_package, 1, 0).ebx >> 16 & 0xff, 8);
    assert_eq!(find(&second_package, 0xb, 0).edx, 8);
    assert_eq!(find(&second_package, 0xb, 0).eax, 1);
    assert_eq!(find(&second_package, 0xb, 1).eax, 3);
    assert_eq!(find(&second_package, 0xb, 1).ebx, 6);
    assert_eq!(find(&second_package, 0xb, 1).ecx, 0x201);
    assert_eq!(find(&second_package, 0xb, 2).ecx, 2, "the end of the list");
    assert_eq!(find(&second_package, 0x8000_001e, 0).eax, 8);
    assert_eq!(find(&second_package, 0x8000_0008, 0).ecx, 0x3005);
    assert_eq!(find(&second_package, 4, 0).eax >> 14 & 0xfff, 1);
    assert_eq!(find(&second_package, 4, 3).eax >> 14 & 0xfff, 7);
}

proptest! {
    #[test]
    fn apic_identifiers_are_distinct_and_ascend(sockets in 1u32..5, dies in 1u32..3,
            cores in 1u32..7, threads in 1u32..3) {
        let spec = cpus(sockets, dies, cores, threads);
        let ids = apic_ids(&spec);
        prop_assert_eq!(ids.len(), usize::try_from(spec.max).expect("small"));
        prop_assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn any_host_gives_a_table(raw in prop::collection::vec(
            (any::<u32>(), 0u32..4, any::<[u32; 4]>()), 0..40)) {
        let host: Vec<Leaf> = raw.into_iter().map(|(f, i, r)| entry(f, i, r)).collect();
        let table = table(host, &cpus(1, 2, 4, 2), true);
        for index in 0..16 {
            let _leaves = table.for_vcpu(index);
        }
    }
}

/// A host with everything that the best of a maker's models has, an XSAVE area as processors have
/// it, and bits that have no name.
fn rich(letters: [u8; 12]) -> HostCpu {
    let name = if letters == *b"GenuineIntel" {
        "SapphireRapids"
    } else {
        "EPYC-Genoa"
    };
    let model = cpu::find_model(name).expect("a model");
    let more = cpu::Set::of(["x2apic", "kvmclock", "invtsc", "umip"]).expect("names");
    let set = model.set().union(&more);
    let mut host = HostCpu::made_of(&set, letters, model.signature());
    host.tsc_deadline = true;
    for leaf in &mut host.leaves {
        match (leaf.leaf, leaf.subleaf) {
            (7, 0) => leaf.ecx |= 1 << 13,
            (0xd, 1) => leaf.ecx = 0x1800,
            (0x8000_0001, _) => {
                leaf.eax = model.signature();
                leaf.edx |= 0x0183_f3ff;
            }
            _ => {}
        }
    }
    host.leaves.extend([
        entry(0xd, 0, [0x2e7, 0xa80, 0xa88, 0]),
        entry(0xd, 2, [0x100, 0x240, 0, 0]),
        entry(0xd, 5, [0x40, 0x440, 0, 0]),
        entry(0xd, 6, [0x200, 0x480, 0, 0]),
        entry(0xd, 7, [0x400, 0x680, 0, 0]),
        entry(0xd, 9, [0x8, 0xa80, 0, 0]),
        entry(0xd, 11, [0x10, 0, 1, 0]),
        entry(0x14, 0, [1, 0xf, 7, 0]),
        entry(0x8000_0002, 0, [0x2020_2020; 4]),
        entry(0x8000_0003, 0, [0x2020_2020; 4]),
        entry(0x8000_0004, 0, [0x2020_2020; 4]),
    ]);
    host
}

fn named(name: &str) -> CpuSpec {
    CpuSpec {
        model: CpuModel::Named {
            name: name.into(),
            beyond: false,
        },
        ..CpuSpec::fixed(2)
    }
}

#[test]
fn a_named_model_shows_its_own_bits_name_and_signature() {
    let host = rich(*b"GenuineIntel");
    let leaves = Table::new(&host, &named("Westmere"))
        .expect("fine")
        .for_vcpu(0);
    let model = cpu::find_model("Westmere").expect("it").set();
    let word = |leaf, register| model.word(leaf, 0, register).expect("a word");
    let first = find(&leaves, 1, 0);
    assert_eq!(first.eax, 0x206c1);
    assert_eq!(first.edx, word(1, cpu::Register::Edx));
    assert_eq!(
        first.ecx,
        word(1, cpu::Register::Ecx) | HYPERVISOR | 1 << 21
    );
    let seven = find(&leaves, 7, 0);
    assert_eq!(
        (seven.ebx, seven.ecx, seven.edx),
        (0, 0, 0),
        "unnamed bits too"
    );
    assert_eq!(find(&leaves, 0xd, 0).eax, 0, "no XSAVE, no area");
    assert_eq!(find(&leaves, 0x14, 0).eax, 0);
    assert_eq!(find(&leaves, 0x8000_0007, 0).edx, 0);
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .map(|leaf| find(&leaves, leaf, 0))
        .flat_map(|l| [l.eax, l.ebx, l.ecx, l.edx])
        .flat_map(u32::to_le_bytes)
        .collect();
    assert!(brand.starts_with(b"Intel Processor (Westmere)\0"));
    assert_eq!(brand.last(), Some(&0));
}

#[test]
fn the_saved_area_is_as_large_as_what_is_shown() {
    let host = rich(*b"GenuineIntel");
    let area = |name: &str| {
        let leaves = Table::new(&host, &named(name)).expect("fine").for_vcpu(0);
        let leaf = find(&leaves, 0xd, 0);
        (leaf.eax, leaf.ecx)
    };
    assert_eq!(area("SandyBridge"), (0x7, 0x340));
    assert_eq!(area("Skylake-Server"), (0x2e7, 0xa88));
    assert_eq!(area("Icelake-Client-noTSX"), (0x2e7, 0xa88));
    let leaves = Table::new(&host, &named("Haswell"))
        .expect("fine")
        .for_vcpu(0);
    assert_eq!(
        find(&leaves, 0xd, 1).ecx,
        0,
        "no XSAVES, no supervisor states"
    );
    assert_eq!(find(&leaves, 0xd, 7).eax, 0);
    assert_eq!(find(&leaves, 0xd, 11).eax, 0);
}

#[test]
fn vendor_and_width_are_the_specs() {
    let spec = CpuSpec {
        vendor_id: Some("MadeOfLetter".into()),
        physical_bits: Some(39),
        ..CpuSpec::fixed(1)
    };
    let leaves = Table::new(&rich(*b"AuthenticAMD"), &spec)
        .expect("fine")
        .for_vcpu(0);
    for number in [0, 0x8000_0000] {
        let leaf = find(&leaves, number, 0);
        assert_eq!(leaf.ebx.to_le_bytes(), *b"Made");
        assert_eq!(leaf.edx.to_le_bytes(), *b"OfLe");
        assert_eq!(leaf.ecx.to_le_bytes(), *b"tter");
    }
    assert_eq!(find(&leaves, 0x8000_0008, 0).eax, 0x3027);
}

#[test]
fn tables_have_the_fingerprints_they_were_released_with() {
    use std::fmt::Write as _;
    // The CPUID rules belong to the machine version: the same host and spec give the same table.
    let mut text = String::new();
    let cases = [
        (*b"GenuineIntel", CpuSpec::fixed(1), "host-passthrough"),
        (*b"GenuineIntel", named("x86-64-v2"), "x86-64-v2"),
        (*b"GenuineIntel", named("Haswell-noTSX"), "Haswell-noTSX"),
        (*b"AuthenticAMD", cpus(1, 2, 2, 2), "host-passthrough"),
        (*b"AuthenticAMD", named("EPYC-Rome"), "EPYC-Rome"),
    ];
    for (letters, spec, name) in cases {
        let table = Table::new(&rich(letters), &spec).expect("a table");
        let maker = String::from_utf8_lossy(&letters);
        let _ = writeln!(text, "{name} on {maker}, the last of {} vCPUs", spec.max);
        for leaf in table.for_vcpu(spec.max - 1) {
            let _ = writeln!(
                text,
                "  {:8x}.{:x}: {:08x} {:08x} {:08x} {:08x}",
                leaf.function, leaf.index, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx
            );
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/arch/cpuid/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("write");
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).expect("the golden file")
    );
}

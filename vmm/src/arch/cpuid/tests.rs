//! CPUID tables from made-up hosts.

use super::*;
use proptest::prelude::*;

fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        index,
        flags: u32::from(matches!(function, 4 | 0xb | 0x8000_001d)),
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

fn host() -> Vec<kvm_cpuid_entry2> {
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
    let table = Table::new(&host(), &CpuSpec::fixed(1), true).for_vcpu(0);
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
        let table = Table::new(&host(), &spec, true).for_vcpu(0);
        find(&table, 0x8000_0007, 0).edx & INVARIANT_TSC != 0
    };
    assert!(!shows(CpuModel::Default));
    assert!(!shows(CpuModel::HostPassthrough { migratable: true }));
    assert!(shows(CpuModel::HostPassthrough { migratable: false }));
}

#[test]
fn a_leaf_that_the_host_has_not_is_not_invented() {
    let poor: Vec<_> = host().into_iter().filter(|e| e.function != 0xb).collect();
    let table = Table::new(&poor, &CpuSpec::fixed(2), false).for_vcpu(1);
    assert!(table.iter().all(|entry| entry.function != 0xb));
    assert_eq!(find(&table, 1, 0).ecx & TSC_DEADLINE, 0);
}

#[test]
fn vcpus_differ_by_their_identifier() {
    let table = Table::new(&host(), &cpus(2, 1, 3, 2), true);
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
        let host: Vec<_> = raw.into_iter().map(|(f, i, r)| entry(f, i, r)).collect();
        let table = Table::new(&host, &cpus(1, 2, 4, 2), true);
        for index in 0..16 {
            let _leaves = table.for_vcpu(index);
        }
    }
}

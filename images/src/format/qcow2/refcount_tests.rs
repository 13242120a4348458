use super::*;

fn state(cluster_bits: u32, order: u32) -> RefState {
    let per_block = (8 << cluster_bits) >> order;
    let mut state = RefState {
        order,
        cluster_bits,
        per_block,
        table: vec![0; (1 << cluster_bits) / 8],
        table_offset: 1 << cluster_bits,
        ..RefState::default()
    };
    // Header, table and the first block.
    state.install(0, 2).unwrap();
    for cluster in 0..3 {
        state.put(cluster, 1);
    }
    state.hint = 3;
    state.untouched = 3;
    state
}

fn take(state: &mut RefState, want: u64, min: u64) -> Run {
    match state.allocate(want, min).unwrap() {
        Step::Done(run) => run,
        Step::Load(index) => panic!("block {index} is not in memory"),
    }
}

/// Every cluster that is counted is an allocation, the table, a block, or the header.
fn assert_consistent(state: &mut RefState, allocated: &[Run]) {
    let mut used = BTreeSet::from([0]);
    let table = state.table_offset >> state.cluster_bits;
    let mut add = |cluster: u64| assert!(used.insert(cluster), "cluster {cluster} is used twice");
    (table..table + state.table_clusters()).for_each(&mut add);
    state
        .table
        .iter()
        .filter(|&&e| e != 0)
        .for_each(|&e| add(e >> state.cluster_bits));
    allocated
        .iter()
        .for_each(|r| (r.start..r.start + r.len).for_each(&mut add));
    for free in state.pending.clone() {
        (free.cluster..free.cluster + free.len).for_each(&mut add);
    }
    let end = state.table.len() as u64 * state.per_block;
    for cluster in 0..end.min(200_000) {
        let Step::Done(count) = state.get(cluster) else {
            panic!("not in memory")
        };
        assert_eq!(
            count,
            u64::from(used.contains(&cluster)),
            "cluster {cluster}"
        );
    }
}

#[test]
fn allocation_grows_blocks_and_the_table_and_counts_itself() {
    for (cluster_bits, order) in [(9, 6), (9, 4), (9, 0), (12, 4), (16, 4)] {
        let mut state = state(cluster_bits, order);
        let mut runs = Vec::new();
        for i in 0..3000u64 {
            let run = take(&mut state, i % 7 + 1, 1);
            assert!(run.len >= 1 && run.zero);
            runs.push(run);
        }
        assert_consistent(&mut state, &runs);
    }
}

#[test]
fn runs_that_must_lie_together_do_even_across_blocks() {
    for (cluster_bits, order) in [(9, 6), (9, 4), (16, 4)] {
        let mut state = state(cluster_bits, order);
        let mut runs = Vec::new();
        for n in [1, 10, 63, 64, 65, 200, 5000, 3] {
            let run = take(&mut state, n, n);
            assert_eq!(run.len, n);
            runs.push(run);
            runs.push(take(&mut state, 5, 1));
        }
        assert_consistent(&mut state, &runs);
    }
}

#[test]
fn freed_clusters_are_used_again_and_are_not_known_to_be_zero() {
    let mut state = state(16, 4);
    let a = take(&mut state, 10, 1);
    let _b = take(&mut state, 1, 1);
    for cluster in a.start + 2..a.start + 5 {
        assert!(matches!(state.add(cluster, -1).unwrap(), Step::Done(0)));
    }
    let c = take(&mut state, 10, 1);
    assert_eq!(
        c,
        Run {
            start: a.start + 2,
            len: 3,
            zero: false
        }
    );
    assert!(state.add(a.start, -2).is_err());
}

#[test]
fn a_count_does_not_leave_its_width() {
    let mut state = state(12, 0);
    let a = take(&mut state, 1, 1);
    assert!(state.add(a.start, 1).is_err());
    assert!(matches!(state.get(a.start), Step::Done(1)));
}

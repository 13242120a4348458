//! The attacks that have a name.

use super::victim::{Descriptor, INDIRECT, NEXT, NOWHERE, SIZE, Victim, WRITE};
use crate::memory::store;

type Attack = fn(&mut Victim);

/// All of them.
pub const ATTACKS: &[(&str, Attack)] = &[
    ("a chain that bites its tail", tail),
    ("a descriptor that follows itself", itself),
    ("a chain that leaves the table", next_outside),
    ("a head outside the table", head_outside),
    ("addresses outside memory", addresses),
    ("lengths near 2^32", lengths),
    ("nothing at all", empty),
    (
        "only what the device writes, or only what it reads",
        one_way,
    ),
    ("reading after writing", wrong_order),
    ("indirect tables inside indirect tables", indirect_twice),
    ("indirect tables of any length", indirect_lengths),
    ("an indirect table that goes on", indirect_next),
    ("an indirect table that loops", indirect_loop),
    ("more available than there is room for", too_many),
    ("an index that goes back", backwards),
    ("rings that are one", overlapping),
    ("a ring inside its own requests", request_in_ring),
    ("rings outside memory", rings_outside),
    ("sizes while the queue is live", live_size),
    ("enabling again while the queue is live", live_enable),
    ("a reset in the middle of requests", reset_midway),
    ("rings that overlap", partly_overlapping),
    ("doorbells without queues", doorbells),
    ("features after they were agreed on", late_features),
];

/// Addresses that no request should have: none, the middle of nowhere, device memory, and the end of
/// all addresses.
const WRONG: [u64; 8] = [
    NOWHERE,
    0xb000_0000,
    0xd000_0000,
    0xfee0_0000,
    0xfec0_0000,
    u64::MAX,
    u64::MAX - 4095,
    1 << 63,
];

fn tail(v: &mut Victim) {
    v.describe(0, (v.data, 16, NEXT, 1));
    v.describe(1, (v.data, 16, NEXT, 0));
    v.offer(0);
}

fn itself(v: &mut Victim) {
    for flags in [NEXT, NEXT | WRITE] {
        v.describe(0, (v.data, 16, flags, 0));
        v.offer(0);
    }
}

fn next_outside(v: &mut Victim) {
    for next in [SIZE, SIZE + 1, 0x7fff, 0xffff] {
        v.describe(0, (v.data, 16, NEXT, next));
        v.offer(0);
        again(v);
    }
}

fn head_outside(v: &mut Victim) {
    for head in [SIZE, 0x100, 0xffff] {
        v.offer(head);
        again(v);
    }
}

fn addresses(v: &mut Victim) {
    for address in WRONG {
        let header = (v.data, 16, 0, 0);
        let status = (v.data + 16, 1, WRITE, 0);
        v.send(&[(address, 16, 0, 0), (v.data + 512, 512, WRITE, 0), status]);
        again(v);
        v.send(&[header, (address, 512, WRITE, 0), status]);
        again(v);
        v.send(&[
            header,
            (v.data + 512, 512, WRITE, 0),
            (address, 1, WRITE, 0),
        ]);
        again(v);
    }
}

fn lengths(v: &mut Victim) {
    for length in [u32::MAX, 0x8000_0000, 0xffff_f000, 0x0400_0000] {
        v.send(&[
            (v.data, 16, 0, 0),
            (v.data, length, WRITE, 0),
            (v.data + 16, 1, WRITE, 0),
        ]);
        again(v);
        let all: [Descriptor; SIZE as usize] = [(v.data, length, WRITE, 0); SIZE as usize];
        v.send(&all);
        again(v);
    }
}

fn empty(v: &mut Victim) {
    v.send(&[(v.data, 0, 0, 0)]);
    again(v);
    v.send(&[(v.data, 0, WRITE, 0), (v.data, 0, WRITE, 0)]);
    again(v);
    v.send(&[(0, 0, 0, 0)]);
}

fn one_way(v: &mut Victim) {
    for flags in [0, WRITE] {
        for length in [1, 15, 16, 17, 512] {
            v.send(&[(v.data, length, flags, 0)]);
            again(v);
        }
    }
}

fn wrong_order(v: &mut Victim) {
    v.send(&[
        (v.data + 16, 1, WRITE, 0),
        (v.data + 512, 512, WRITE, 0),
        (v.data, 16, 0, 0),
    ]);
}

fn indirect_twice(v: &mut Victim) {
    v.describe_indirect(0, (v.table, 16, INDIRECT, 0));
    v.describe_indirect(1, (v.table, 32, INDIRECT | NEXT, 0));
    for length in [16, 32] {
        v.describe(0, (v.table, length, INDIRECT, 0));
        v.offer(0);
        again(v);
    }
}

fn indirect_lengths(v: &mut Victim) {
    v.describe_indirect(0, (v.data, 16, 0, 0));
    for length in [0, 1, 15, 17, 4095, 0x10_0000, u32::MAX, u32::MAX - 15] {
        v.describe(0, (v.table, length, INDIRECT, 0));
        v.offer(0);
        again(v);
    }
    for address in WRONG {
        v.describe(0, (address, 64, INDIRECT, 0));
        v.offer(0);
        again(v);
    }
}

fn indirect_next(v: &mut Victim) {
    v.describe_indirect(0, (v.data, 16, 0, 0));
    v.describe(0, (v.table, 16, INDIRECT | NEXT, 1));
    v.describe(1, (v.data + 16, 1, WRITE, 0));
    v.offer(0);
    again(v);
    v.describe(0, (v.table, 16, INDIRECT | WRITE, 0));
    v.offer(0);
}

fn indirect_loop(v: &mut Victim) {
    for at in 0..64 {
        v.describe_indirect(at, (v.data, 16, NEXT | WRITE, (at + 1) % 64));
    }
    v.describe(0, (v.table, 64 * 16, INDIRECT, 0));
    v.offer(0);
    again(v);
    v.describe_indirect(3, (v.data, 16, NEXT | WRITE, 64));
    v.offer(0);
}

fn too_many(v: &mut Victim) {
    for index in [SIZE + 1, 0x8000, 0xffff] {
        v.publish(index);
        again(v);
    }
}

fn backwards(v: &mut Victim) {
    for _ in 0..4 {
        v.send(&[(v.data, 16, 0, 0)]);
    }
    v.wait();
    v.publish(1);
    v.publish(0);
}

fn overlapping(v: &mut Victim) {
    let [one, _, _] = v.rings;
    v.negotiate();
    v.device().enable_queue(v.queue, SIZE, [one; 3]);
    store(one, v.data);
    for index in [1u16, 2, 7, 0xffff] {
        store(one + 2, index);
        v.device().ring_doorbell(v.queue);
    }
}

fn partly_overlapping(v: &mut Victim) {
    let [descriptors, available, _] = v.rings;
    for rings in [
        [descriptors, descriptors + 16, available],
        [descriptors, available, available + 4],
        [descriptors, available, descriptors + 8],
    ] {
        v.negotiate();
        v.device().enable_queue(v.queue, SIZE, rings);
        for at in 0..64 {
            store(rings[1] + 2 * at, at as u16 % SIZE);
        }
        for index in [1u16, SIZE, 0xffff] {
            store(rings[1] + 2, index);
            v.device().ring_doorbell(v.queue);
            v.wait();
        }
    }
}

fn request_in_ring(v: &mut Victim) {
    let [descriptors, available, used] = v.rings;
    for target in [descriptors, available, used] {
        v.send(&[
            (v.data, 16, 0, 0),
            (target, 512, WRITE, 0),
            (target + 2, 1, WRITE, 0),
        ]);
        again(v);
    }
}

fn rings_outside(v: &mut Victim) {
    for wrong in WRONG {
        for place in 0..3 {
            let mut rings = v.rings;
            rings[place] = wrong;
            v.negotiate();
            v.device().enable_queue(v.queue, SIZE, rings);
            store(v.rings[1] + 2, 1u16);
            v.device().ring_doorbell(v.queue);
            v.wait();
        }
    }
}

fn live_size(v: &mut Victim) {
    for size in [0u16, 1, 3, 8, 17, 256, 1024, 0x8000, 0xffff] {
        v.device().register(0x16, v.queue);
        v.device().register(0x18, size);
        v.send(&[(v.data, 16, 0, 0)]);
        again(v);
    }
}

fn live_enable(v: &mut Victim) {
    for enable in [0u16, 1, 2, 0xffff] {
        for queue in [0u16, 1, 7, 0xffff] {
            v.device().register(0x16, queue);
            v.device().register(0x1c, enable);
            v.device().register(0x20, 0xdead_beefu32);
        }
        v.device().register(0x16, v.queue);
        v.send(&[(v.data, 16, 0, 0)]);
    }
}

fn reset_midway(v: &mut Victim) {
    for _ in 0..32 {
        store(v.data, 0u64);
        store(v.data + 8, 0u64);
        for _ in 0..SIZE {
            v.send(&[
                (v.data, 16, 0, 0),
                (v.data + 4096, 32768, WRITE, 0),
                (v.data + 16, 1, WRITE, 0),
            ]);
        }
        v.arm();
    }
}

fn doorbells(v: &mut Victim) {
    v.negotiate();
    for queue in [0u16, 1, 2, 63, 0xffff] {
        v.device().ring_doorbell(queue);
        v.device().ring_doorbell_of(0, queue);
    }
    v.arm();
    for _ in 0..2000 {
        v.device().ring_doorbell(v.queue);
    }
}

fn late_features(v: &mut Victim) {
    for half in 0..4u32 {
        v.device().register(0x08, half);
        v.device().register(0x0c, u32::MAX);
    }
    v.device().register(0x10, 0u16);
    for status in [0x08u8, 0x0b, 0x80, 0xff, 0x4f] {
        v.device().register(0x14, status);
    }
}

/// Lets the last take effect; a device that has given up gets clean rings.
fn again(v: &mut Victim) {
    v.wait();
    if v.device().needs_reset() {
        v.arm();
    }
}

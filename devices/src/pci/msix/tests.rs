//! MSI-X against a model: what must be delivered, what must wait.

use super::*;
use crate::testing::{FakeMsis, FakeVector};
use proptest::prelude::*;

fn msix(count: u16) -> (Msix, Arc<FakeMsis>) {
    let host = Arc::new(FakeMsis::default());
    (Msix::new(host.clone(), 0x10, count), host)
}

fn write_entry(msix: &Msix, index: u64, address: u64, data: u32, masked: bool) {
    msix.write_table(index * ENTRY_SIZE, &address.to_le_bytes());
    let mut rest = [0; 8];
    rest[..4].copy_from_slice(&data.to_le_bytes());
    rest[4] = u8::from(masked);
    msix.write_table(index * ENTRY_SIZE + 8, &rest);
}

fn only(host: &FakeMsis) -> Arc<FakeVector> {
    let live = host.live();
    assert_eq!(live.len(), 1);
    live[0].clone()
}

#[test]
fn nothing_is_registered_before_a_user_names_the_vector() {
    let (msix, host) = msix(2);
    msix.set_control(CONTROL_ENABLE);
    write_entry(&msix, 0, 0xfee0_0000, 0x41, false);
    assert!(host.live().is_empty());
    msix.use_vector(0);
    let vector = only(&host);
    let message = vector.routed.lock().unwrap().unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x41));
    msix.trigger(0);
    assert_eq!(vector.fired(), 1);
    drop(vector);
    msix.release_vector(0);
    assert!(host.live().is_empty());
}

#[test]
fn masked_vectors_wait_and_fire_once() {
    let (msix, host) = msix(1);
    msix.set_control(CONTROL_ENABLE);
    write_entry(&msix, 0, 0xfee0_0000, 0x41, false);
    msix.use_vector(0);
    let vector = only(&host);
    write_entry(&msix, 0, 0xfee0_0000, 0x41, true);
    msix.trigger(0);
    msix.trigger(0);
    let mut pending = [0; 8];
    msix.read_pending(0, &mut pending);
    assert_eq!((vector.fired(), pending[0]), (0, 1));
    write_entry(&msix, 0, 0xfee0_0000, 0x42, false);
    msix.read_pending(0, &mut pending);
    assert_eq!((vector.fired(), pending[0]), (1, 0));
    assert_eq!(vector.routed.lock().unwrap().unwrap().data, 0x42);
    // The function mask works the same way.
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
    msix.trigger(0);
    assert_eq!(vector.fired(), 1);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(vector.fired(), 2);
    let routes = vector.routes.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(routes, 2, "masking alone costs no route");
}

#[test]
fn switching_off_gives_everything_back() {
    let (msix, host) = msix(1);
    msix.use_vector(0);
    msix.set_control(CONTROL_ENABLE);
    write_entry(&msix, 0, 0xfee0_0000, 0x41, false);
    assert_eq!(host.live().len(), 1);
    msix.set_control(0);
    assert!(host.live().is_empty());
    msix.trigger(0);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(only(&host).fired(), 0, "lost while off");
}

#[test]
fn table_bytes_read_back_at_every_offset_and_width() {
    for count in [1_u16, 2, 3, 17, 64] {
        let (msix, _host) = msix(count);
        let size = u64::from(count) * ENTRY_SIZE;
        for offset in 0..size + 8 {
            for len in 1..=8_usize {
                let data = [0xa5; 8];
                msix.reset();
                msix.write_table(offset, &data[..len]);
                let mut back = [0; 8];
                msix.read_table(offset, &mut back[..len]);
                for (at, byte) in (offset..).zip(&back[..len]) {
                    let expected = match at % ENTRY_SIZE {
                        _ if at >= size => 0,
                        0 => 0xa4,
                        1..12 => 0xa5,
                        12 => 1,
                        _ => 0,
                    };
                    assert_eq!(*byte, expected, "{count} {offset} {len} {at}");
                }
            }
        }
    }
}

#[test]
fn pending_bits_are_where_they_belong() {
    for count in [1_u16, 8, 9, 63, 65, 512] {
        let (msix, _host) = msix(count);
        msix.set_control(CONTROL_ENABLE);
        for index in 0..count {
            msix.trigger(index);
            let mut byte = [0];
            msix.read_pending(u64::from(index / 8), &mut byte);
            assert_eq!(byte[0] >> (index % 8), 1);
        }
        msix.trigger(count);
        let mut beyond = [0xff; 8];
        msix.read_pending(u64::from(count.div_ceil(8)), &mut beyond);
        assert_eq!(beyond, [0; 8]);
        msix.read_pending(u64::MAX - 3, &mut beyond[..3]);
    }
}

#[test]
fn the_capability_tells_the_table_size() {
    for count in [1_u16, 2, 257, MAX_VECTORS, MAX_VECTORS + 1] {
        let (msix, _host) = msix(count);
        let (body, writable) = msix.capability(0x4000, 0x6000);
        let control = u16::from_le_bytes([body[0], body[1]]);
        assert_eq!(control & 0x7ff, count.min(MAX_VECTORS) - 1);
        assert_eq!(writable[..2], [0, 0xc0]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Control(bool, bool),
    Mask(u16, bool),
    Use(u16),
    Release(u16),
    Trigger(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(on, mask)| Step::Control(on, mask)),
        (0..3_u16, any::<bool>()).prop_map(|(index, masked)| Step::Mask(index, masked)),
        (0..3_u16).prop_map(Step::Use),
        (0..3_u16).prop_map(Step::Release),
        (0..3_u16).prop_map(Step::Trigger),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// A vector is registered exactly while it can be delivered or was and is only masked; nothing
    /// fires while masked, and nothing that was raised while it could be delivered is lost.
    #[test]
    fn it_follows_the_model(steps in steps()) {
        let (msix, host) = msix(2);
        let (mut enabled, mut fmask) = (false, false);
        let (mut masked, mut users) = ([true; 2], [0_u32; 2]);
        for step in steps {
            match step {
                Step::Control(on, mask) => {
                    (enabled, fmask) = (on, mask);
                    msix.set_control(u16::from(on) << 15 | u16::from(mask) << 14);
                }
                Step::Mask(index, mask) => {
                    if let Some(entry) = masked.get_mut(usize::from(index)) {
                        *entry = mask;
                    }
                    msix.write_table(u64::from(index) * ENTRY_SIZE + 12, &[u8::from(mask), 0, 0, 0]);
                }
                Step::Use(index) => {
                    if let Some(users) = users.get_mut(usize::from(index)) {
                        *users += 1;
                    }
                    msix.use_vector(index);
                }
                Step::Release(index) => {
                    if let Some(users) = users.get_mut(usize::from(index)) {
                        *users = users.saturating_sub(1);
                    }
                    msix.release_vector(index);
                }
                Step::Trigger(index) => {
                    let live: u32 = host.live().iter().map(|vector| vector.fired()).sum();
                    msix.trigger(index);
                    let now: u32 = host.live().iter().map(|vector| vector.fired()).sum();
                    let at = usize::from(index);
                    let due = at < 2 && enabled && !fmask && !masked[at] && users[at] > 0;
                    prop_assert_eq!(now - live, u32::from(due));
                }
            }
            let wanted = (0..2).filter(|at| enabled && users[*at] > 0);
            prop_assert!(host.live().len() <= wanted.count());
            let needed = (0..2).filter(|at| enabled && !fmask && !masked[*at] && users[*at] > 0);
            prop_assert!(host.live().len() >= needed.count());
        }
        let state = msix.state();
        let other = Msix::new(Arc::new(FakeMsis::default()), 0x10, 2);
        other.restore(&state).unwrap();
        prop_assert_eq!(other.state(), state);
    }
}

//! Guests that mean harm: anything at any register, at any time. Nothing may panic, hang or be left
//! registered.

use super::*;
use proptest::prelude::*;

/// One thing that a guest does.
#[derive(Debug, Clone)]
enum Step {
    /// A write of up to eight bytes to the BAR's first half or its MSI-X table.
    Bar(u64, usize, [u8; 8]),
    /// A read there.
    Read(u64, usize),
    /// A write to configuration space.
    Config(u16, usize, [u8; 8]),
    /// A proper start.
    Start,
    /// A queue's size, enable or address while it may be live.
    Queue(u16, u64, u32),
    /// An available index of any value.
    Publish(u16),
    /// A device takes a request and ends it, or keeps it.
    Serve(bool),
    /// The device ends one that it kept.
    Finish(bool),
    /// The driver's reset.
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bar = prop_oneof![
        0..0x40_u64,
        0x1000..0x1004_u64,
        0x3000..0x3010_u64,
        0x4000..0x4040_u64,
        0..0x8000_u64
    ];
    let step = prop_oneof![
        (bar.clone(), 1..9_usize, any::<[u8; 8]>())
            .prop_map(|(at, len, data)| Step::Bar(at, len, data)),
        (bar, 1..9_usize).prop_map(|(at, len)| Step::Read(at, len)),
        (0..0x100_u16, 1..5_usize, any::<[u8; 8]>())
            .prop_map(|(at, len, data)| Step::Config(at, len, data)),
        Just(Step::Start),
        (
            0..3_u16,
            prop_oneof![Just(0x18_u64), Just(0x1c), 0x20..0x38_u64],
            any::<u32>()
        )
            .prop_map(|(queue, at, value)| Step::Queue(queue, at, value)),
        any::<u16>().prop_map(Step::Publish),
        any::<bool>().prop_map(Step::Serve),
        any::<bool>().prop_map(Step::Finish),
        Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..80)
}

struct Guest<'m> {
    machine: &'m FakeMachine,
    dummy: Arc<Dummy>,
    kept: Vec<Element>,
}

impl Guest<'_> {
    /// The BAR as it is now, if it answers.
    fn bar(&self) -> u64 {
        let [command, _] = self.machine.config::<2>(ADDRESS, 4);
        let base = u64::from_le_bytes(self.machine.config(ADDRESS, 0x10)) & !0xf;
        if command & 2 == 0 { u64::MAX } else { base }
    }

    fn write(&self, at: u64, data: &[u8]) {
        if let Some(address) = self.bar().checked_add(at) {
            self.machine.mmio_write(address, data);
        }
    }

    fn step(&mut self, step: Step) {
        let machine = self.machine;
        match step {
            Step::Bar(at, len, data) => self.write(at, &data[..len]),
            Step::Read(at, len) => {
                if let Some(address) = self.bar().checked_add(at) {
                    machine.context.mmio.read(address, &mut vec![0; len]);
                }
            }
            Step::Config(at, len, data) => machine.set_config(ADDRESS, at, &data[..len]),
            Step::Start => self.start(),
            Step::Queue(queue, at, value) => {
                self.write(0x16, &queue.to_le_bytes());
                let bytes = value.to_le_bytes();
                self.write(at, if at < 0x20 { &bytes[..2] } else { &bytes });
            }
            Step::Publish(index) => {
                Ring::new(machine, 0, 16, RINGS).publish(machine, index);
            }
            Step::Serve(keep) => {
                let queues: Vec<_> = self.dummy.queues.lock().unwrap().clone();
                for element in queues.iter().filter_map(|queue| queue.next()) {
                    if keep {
                        self.kept.push(element);
                    } else {
                        element.complete(4);
                    }
                }
            }
            Step::Finish(park) => match self.kept.pop() {
                Some(element) if park => element.park(),
                Some(element) => element.complete(4),
                None => {}
            },
            Step::Reset => self.write(0x14, &[0]),
        }
    }

    /// What a proper driver does, as far as the state of things lets it.
    fn start(&self) {
        self.write(0x14, &[0]);
        self.write(0x14, &[3]);
        for half in 0..2_u32 {
            self.write(0x08, &half.to_le_bytes());
            self.write(0x0c, &((USUAL >> (32 * half)) as u32).to_le_bytes());
        }
        self.write(0x14, &[11]);
        let mut ring = Ring::new(self.machine, 0, 16, RINGS);
        for _ in 0..4 {
            ring.chain(self.machine, &[(DATA, 8, true)]);
        }
        self.write(0x16, &0_u16.to_le_bytes());
        for (at, address) in [
            (0x20, ring.descriptors),
            (0x28, ring.available),
            (0x30, ring.used),
        ] {
            self.write(at, &address.to_le_bytes());
        }
        self.write(0x1c, &1_u16.to_le_bytes());
        self.write(0x14, &[15]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_hostile_guest_gets_nowhere(steps in steps()) {
        let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
        let device = plug(&machine, &dummy, Origin::Fresh);
        let mut guest = Guest { machine: &machine, dummy: dummy.clone(), kept: Vec::new() };
        for step in steps {
            guest.step(step);
            prop_assert!(machine.doorbells.live().len() <= 2);
            prop_assert!(machine.msis.live().len() <= 3);
        }
        guest.kept.clear();
        device.pause();
        // Whatever was reached can be saved, restored, and saved again.
        let saved = device.save().unwrap();
        let Saved::Sections(sections) = &saved else { panic!("a transport has state") };
        let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
        let restored = plug(&other, &Dummy::new(), Origin::Restored(sections));
        prop_assert_eq!(restored.save().unwrap(), saved);
        // And a machine reset makes it a new device.
        device.reset();
        let fresh = FakeMachine::new(0x1000);
        let new = plug(&fresh, &Dummy::new(), Origin::Fresh);
        prop_assert_eq!(device.save().unwrap(), new.save().unwrap());
        drop(device);
        prop_assert!(machine.doorbells.live().is_empty() && machine.msis.live().is_empty());
    }
}

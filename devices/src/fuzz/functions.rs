//! virtio functions behind their transport, with a driver that means harm.

use super::attacker::{Attacker, RAM};
use super::script::Script;
use crate::backend::display::Pointer;
use crate::backend::stream::Frames;
use crate::device::Device;
use crate::registry::{self, CreateError};
use crate::state::{Origin, Saved, Section, StateError};
use crate::testing::FakeMachine;
use crate::virtio::device::{DeviceInfo, VirtioDevice};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::transport::pci::VirtioPci;
use crate::virtio::{FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, block, net};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_api::spec::{
    BalloonSpec, DeviceKind, DeviceSpec, Fd, GpuSpec, InputModel, InputSpec, PciAddress, RngSpec,
};
use vmm_api::state::Adjustment;

pub(super) const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 5,
    function: 0,
};
/// Steps of one body: enough to get somewhere, few enough to try much.
const STEPS: usize = 400;

/// The features that a driver agrees on; the script may leave some out.
pub(super) fn features(script: &mut Script<'_>) -> u64 {
    let mut features = FEATURE_VERSION_1;
    let choice = script.byte();
    if choice & 1 == 0 {
        features |= FEATURE_INDIRECT;
    }
    if choice & 2 == 0 {
        features |= FEATURE_EVENT_IDX;
    }
    // Whatever the models have in their low bits, as far as it is offered.
    features | u64::from(script.long() & 0x00ff_ffff)
}

/// A device of two queues that does with requests what the script says.
pub(super) struct Toy {
    info: DeviceInfo,
    queues: Mutex<Vec<Arc<Virtqueue>>>,
}

impl Toy {
    pub(super) fn new() -> Arc<Self> {
        let info = DeviceInfo {
            device_id: 42,
            class: 0xff_0000,
            features: 1 << 3,
            queue_sizes: vec![16, 8],
        };
        Arc::new(Self {
            info,
            queues: Mutex::default(),
        })
    }

    fn queues(&self) -> Vec<Arc<Virtqueue>> {
        let queues = self.queues.lock();
        queues.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl VirtioDevice for Toy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn write_config(&self, _offset: u64, _data: &[u8]) {}
    fn start(&self, _features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut mine = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        mine.extend_from_slice(queues);
        Ok(())
    }
    fn reset(&self) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.clear();
    }
    fn save(&self) -> Result<Option<Section>, StateError> {
        Ok(None)
    }
}

/// Plugs the toy in.
pub(super) fn plug_toy(
    machine: &FakeMachine,
    toy: &Arc<Toy>,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let device: Arc<dyn VirtioDevice> = toy.clone();
    VirtioPci::create("toy", ADDRESS, device, &machine.context, origin)
}

/// The transport's registers, rings and saved state, with a device that does nothing by itself. Whether a
/// request was served.
pub fn transport(bytes: &[u8]) -> bool {
    let mut served = false;
    let mut script = Script::new(bytes);
    let (machine, toy) = (FakeMachine::new(RAM), Toy::new());
    let device = plug_toy(&machine, &toy, Origin::Fresh).expect("a free slot");
    let features = features(&mut script);
    let mut attacker = Attacker::new(&machine, ADDRESS, 2);
    attacker.start(features);
    let mut kept = Vec::new();
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        if script.below(4) == 0 {
            served |= serve(&toy, &mut kept, &mut script);
        } else {
            attacker.step(&mut script, features);
        }
        assert!(
            machine.doorbells.live().len() <= 2,
            "doorbells are left behind"
        );
        assert!(machine.msis.live().len() <= 3, "vectors are left behind");
    }
    // What is still in flight is parked.
    kept.clear();
    device.pause();
    let saved = device.save().expect("plain data");
    let Saved::Sections(sections) = &saved else {
        panic!("a transport has state")
    };
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let restored =
        plug_toy(&other, &Toy::new(), Origin::Restored(sections)).expect("its own state");
    assert_eq!(restored.save().expect("plain data"), saved);
    device.reset();
    device.resume();
    drop(device);
    assert!(machine.doorbells.live().is_empty() && machine.msis.live().is_empty());
    served
}

/// What a device may do with its requests. Whether it finished one.
fn serve(toy: &Toy, kept: &mut Vec<Element>, script: &mut Script<'_>) -> bool {
    let queues = toy.queues();
    let Some(queue) = queues.get(usize::from(script.byte()) % queues.len().max(1)) else {
        return false;
    };
    match script.below(8) {
        0 => drop(kept.pop()),
        1 => {
            if let Some(element) = kept.pop() {
                element.complete(script.long());
                return true;
            }
        }
        2 => {
            let elements: Vec<_> = (0..script.below(4)).map_while(|_| queue.next()).collect();
            queue.give_back(elements);
        }
        3 => {
            let elements = (0..script.below(4)).map_while(|_| queue.next());
            let used = elements.map(|element| (element, 1)).collect();
            queue.complete_all(used);
        }
        4 => kept.extend(queue.next()),
        5 => drop(queue.next_now()),
        6 => drop(queue.has_next()),
        _ => {
            let Some(element) = queue.next() else {
                return false;
            };
            let mut buffer = [0; 64];
            let offset = script.value();
            element.read_at(offset, &mut buffer);
            element.write_at(offset, &buffer);
            assert!(element.readable_len() + element.writable_len() < 1 << 32);
            element.complete(u32::from(script.byte()));
            return true;
        }
    }
    false
}

/// A driver against a device with a worker of its own; the host now and then makes it pause. What the
/// device has counted.
fn attack(
    machine: &FakeMachine,
    device: &Arc<dyn Device>,
    queues: u16,
    script: &mut Script<'_>,
    host: impl FnMut(),
) -> Value {
    let features = features(script);
    attack_with(features, machine, device, queues, (script, host))
}

/// As [`attack`], with features that the driver asks for.
pub(super) fn attack_with(
    features: u64,
    machine: &FakeMachine,
    device: &Arc<dyn Device>,
    queues: u16,
    (script, mut host): (&mut Script<'_>, impl FnMut()),
) -> Value {
    let mut attacker = Attacker::new(machine, ADDRESS, queues);
    attacker.start(features);
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        match script.below(24) {
            0 => {
                device.pause();
                device.resume();
            }
            1 => host(),
            // Long enough for a worker to come up on a busy machine.
            2 => std::thread::sleep(std::time::Duration::from_micros(30)),
            3 if script.byte() < 8 => {
                device.pause();
                device.reset();
                device.resume();
            }
            _ => attacker.step(script, features),
        }
    }
    device.pause();
    device.save().expect("plain data");
    device.stats()
}

/// Whether the device has counted any of these.
fn counted(stats: &Value, what: &str) -> bool {
    let number = stats.pointer(what).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("{what} is not in {stats}")) > 0
}

/// A disk in memory. Whether it was read or written.
pub fn block(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let setup = script.byte();
    let device =
        block::in_memory(ADDRESS, 1 << 20, setup & 1 == 1, &machine.context).expect("a disk");
    device.activate().expect("nobody else has it");
    let stats = attack(&machine, &device, 1, &mut script, || {});
    counted(&stats, "/read/requests") || counted(&stats, "/write/requests")
}

/// A network card; what it sends comes back to it. Whether frames went both ways.
pub fn net(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let Ok((ours, theirs)) = UnixDatagram::pair() else {
        return false;
    };
    theirs.set_nonblocking(true).expect("a socket");
    let device =
        net::on_sockets(ADDRESS, vec![OwnedFd::from(ours)], &machine.context).expect("a card");
    let mut frame = [0; 2048];
    let stats = attack(&machine, &device, 2, &mut script, || {
        let got = theirs.recv(&mut frame).unwrap_or(200);
        // A full socket drops frames, as networks do.
        let _ = theirs.send(&frame[..got]);
    });
    both_ways(&stats)
}

fn both_ways(stats: &Value) -> bool {
    counted(stats, "/rx/packets") && counted(stats, "/tx/packets")
}

/// A network card whose peer on a stream says what the script says, and now and then frames. Whether
/// frames went both ways.
pub fn net_stream(bytes: &[u8]) -> bool {
    frames(bytes);
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return false;
    };
    theirs.set_nonblocking(true).expect("a socket");
    let raw = script.byte() < 32;
    let device = net::on_stream(ADDRESS, OwnedFd::from(ours), &machine.context).expect("a card");
    let mut words = bytes.chunks(97).cycle();
    let mut sink = [0; 4096];
    let stats = attack(&machine, &device, 2, &mut script, || {
        let word = words.next().unwrap_or_default();
        if !raw {
            // A full socket takes a part of it: a length in the middle of a frame, later.
            let _ = theirs.write(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        }
        let _ = theirs.write(word);
        let _ = theirs.read(&mut sink);
    });
    both_ways(&stats)
}

/// What is found in a stream is what is in it, in whatever pieces it comes.
fn frames(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let (mut frames, mut found, mut rest) = (Frames::default(), Vec::new(), bytes);
    while !rest.is_empty() {
        let room = frames.room();
        assert!(!room.is_empty(), "no room for the rest of a frame");
        let count = rest
            .len()
            .min(room.len())
            .min(1 + usize::from(script.byte()));
        let (now, later) = rest.split_at(count);
        room[..count].copy_from_slice(now);
        rest = later;
        frames.filled(count);
        loop {
            match frames.front() {
                Ok(Some(frame)) => {
                    found.extend(u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
                    found.extend(frame);
                    frames.take();
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(bytes.starts_with(&found));
                    return;
                }
            }
        }
    }
    assert!(bytes.starts_with(&found), "frames that nobody sent");
}

/// A balloon whose host changes its mind; its features are agreed on as often as not. Whether it was
/// inflated.
pub fn balloon(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let spec = DeviceSpec {
        id: "balloon0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioBalloon(BalloonSpec {
            target: None,
            autodeflate: script.flag(),
            free_page_reporting: script.flag(),
            stats_period: 0,
        }),
    };
    let device = registry::create(&spec, &machine.context, Origin::Fresh).expect("a balloon");
    let mut features = features(&mut script) & !0x00ff_ffff;
    features |= u64::from(script.byte() & 0b11_0110);
    let mut wish = 0_u32;
    let host = || {
        wish = wish.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        let bytes = u64::from(wish) % RAM as u64 / 4096 * 4096;
        assert!(device.adjust(Adjustment::Memory { bytes }));
        assert!(device.adjust(Adjustment::StatsPeriod { seconds: wish % 3 }));
        assert!(device.held_back() <= (RAM as u64) + (1 << 20));
        device.stats();
    };
    let stats = attack_with(features, &machine, &device, 4, (&mut script, host));
    counted(&stats, "/inflated_pages")
}

/// An entropy source that gives zeroes, and ends. Whether some were given.
pub fn rng(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return false;
    };
    theirs.set_nonblocking(true).expect("a socket");
    machine.context.files.add(7, OwnedFd::from(ours));
    let spec = DeviceSpec {
        id: "rng0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioRng(RngSpec {
            source: Fd(7),
            rate_bytes: script.flag().then_some(1000),
            period_ms: None,
        }),
    };
    let device = registry::create(&spec, &machine.context, Origin::Fresh).expect("a source");
    let stats = attack(&machine, &device, 1, &mut script, || {
        // A full pipe takes no more.
        let _ = theirs.write(&[0; 256]);
        let _ = theirs.read(&mut [0; 1]);
    });
    counted(&stats, "/bytes")
}

/// A graphics card with a viewer, and what it saves taken up by another one. Whether a picture of the
/// guest's was shown.
pub fn gpu(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let spec = DeviceSpec {
        id: "video0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioGpu(GpuSpec {
            memory: 1 << 20,
            ..GpuSpec::default()
        }),
    };
    let device = registry::create(&spec, &machine.context, Origin::Fresh).expect("a card");
    let display = Arc::clone(&machine.context.display);
    let viewer = display.look();
    let commands = Commands::new(&mut script);
    let mut shown = false;
    let stats = attack(&machine, &device, 2, &mut script, || {
        commands.write(&machine);
        let news = viewer.take().unwrap_or_default();
        let (width, height) = display.size();
        for rect in news.rects {
            assert!(rect.is_within(width, height) || news.size.is_none());
            shown |= display.copy(rect).iter().any(|byte| *byte != 0);
        }
        display.wish(width / 2, height * 2);
    });
    let Ok(Saved::Sections(sections)) = device.save() else {
        panic!("a card has state");
    };
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let restored = registry::create(&spec, &other.context, Origin::Restored(&sections));
    let again = restored.expect("its own state").save().expect("plain data");
    assert_eq!(again, Saved::Sections(sections));
    shown && counted(&stats, "/bytes")
}

/// Graphics commands with numbers from the script, written where the attacker's buffers are.
struct Commands(Vec<u8>);

impl Commands {
    fn new(script: &mut Script<'_>) -> Self {
        let mut bytes = Vec::new();
        for _ in 0..16 {
            let kind = script.pick(&[0x100_u32, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107]);
            for number in [kind, 1, 7, 0, 0, 0] {
                bytes.extend(number.to_le_bytes());
            }
            for _ in 0..10 {
                let number = script.pick(&[0_u32, 1, 1, 2, 8, 64, 0x1000, 0x8_0000, u32::MAX]);
                bytes.extend(number.to_le_bytes());
            }
        }
        Self(bytes)
    }

    fn write(&self, machine: &FakeMachine) {
        machine
            .memory
            .memory()
            .write_slice(&self.0, GuestAddress(super::attacker::DATA))
            .expect("RAM");
    }
}

/// A keyboard or something to point with, and somebody who uses it. Whether the driver was told.
pub fn input(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(RAM);
    let model = script.pick(&[InputModel::Keyboard, InputModel::Tablet, InputModel::Mouse]);
    let spec = DeviceSpec {
        id: "input0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioInput(InputSpec { model }),
    };
    let device = registry::create(&spec, &machine.context, Origin::Fresh).expect("a device");
    let display = Arc::clone(&machine.context.display);
    let mut at = Pointer::default();
    let stats = attack(&machine, &device, 2, &mut script, || {
        at.x = at.x.wrapping_mul(7).wrapping_add(1);
        at.buttons = at.buttons.wrapping_add(1);
        display.pointer(at);
        display.key(u16::from(at.buttons), at.x % 2 == 0);
    });
    counted(&stats, "/events")
}

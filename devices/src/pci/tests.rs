//! The root complex as a guest sees it, and register files under arbitrary writes.

use super::config::{ConfigBuilder, Identity};
use super::{BarPlan, ECAM_BASE, ECAM_SIZE, MMIO_END};
use crate::device::Device;
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::block;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use vmm_api::spec::{DeviceKind, DeviceSpec, PciAddress, RootPortSpec};

const HOST: PciAddress = PciAddress {
    bus: 0,
    slot: 0,
    function: 0,
};

#[test]
fn the_two_bridges_are_where_firmware_looks() {
    let machine = FakeMachine::new(0x1000);
    let ids = u32::from_le_bytes(machine.config(HOST, 0));
    assert_eq!(ids, 0x29c0_8086);
    let lpc = PciAddress::new(0, 31, 0).unwrap();
    assert_eq!(u32::from_le_bytes(machine.config(lpc, 0)), 0x2918_8086);
    assert_eq!(u32::from_le_bytes(machine.config(lpc, 0x40)), 0x601);
    let nobody = PciAddress::new(0, 5, 0).unwrap();
    assert_eq!(machine.config(nobody, 0), [0xff; 4]);
    let other_bus = PciAddress::new(7, 0, 0).unwrap();
    assert_eq!(machine.config(other_bus, 0), [0xff; 4]);
}

#[test]
fn ports_and_ecam_see_the_same_registers() {
    let machine = FakeMachine::new(0x1000);
    let pio = &machine.context.pio;
    let mut data = [0; 4];
    pio.write(0xcf8, &0x8000_f800_u32.to_le_bytes());
    assert!(pio.read(0xcf8, &mut data));
    assert_eq!(u32::from_le_bytes(data), 0x8000_f800);
    assert!(pio.read(0xcfc, &mut data));
    assert_eq!(u32::from_le_bytes(data), 0x2918_8086);
    let mut half = [0; 2];
    assert!(pio.read(0xcfe, &mut half));
    assert_eq!(u16::from_le_bytes(half), 0x2918);
    // Without the enable bit nobody answers.
    pio.write(0xcf8, &0x0000_f800_u32.to_le_bytes());
    assert!(pio.read(0xcfc, &mut data));
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn the_reset_control_port_asks_for_a_reset() {
    let machine = FakeMachine::new(0x1000);
    machine.context.pio.write(0xcf9, &[0x02]);
    assert_eq!(machine.requests.resets.load(Ordering::SeqCst), 0);
    machine.context.pio.write(0xcf9, &[0x06]);
    assert_eq!(machine.requests.resets.load(Ordering::SeqCst), 1);
    let mut byte = [0];
    machine.context.pio.read(0xcf9, &mut byte);
    assert_eq!(byte, [0x02]);
}

#[test]
fn the_ecam_moves_with_its_register() {
    let machine = FakeMachine::new(0x1000);
    machine.set_config(HOST, 0x60, &0xd000_0001_u32.to_le_bytes());
    let mut data = [0; 4];
    assert!(!machine.context.mmio.read(ECAM_BASE, &mut data));
    assert!(machine.context.mmio.read(0xd000_0000, &mut data));
    assert_eq!(u32::from_le_bytes(data), 0x29c0_8086);
    machine.context.pci.reset();
    assert!(!machine.context.mmio.read(0xd000_0000, &mut data));
    assert!(machine.context.mmio.read(ECAM_BASE, &mut data));
}

#[test]
fn saving_restoring_and_saving_again_is_the_same() {
    let machine = FakeMachine::new(0x1000);
    machine.set_config(HOST, 0x60, &0xd000_0001_u32.to_le_bytes());
    machine
        .context
        .pio
        .write(0xcf8, &0x8000_1234_u32.to_le_bytes());
    let Saved::Sections(saved) = machine.context.pci.save().unwrap() else {
        panic!("a root complex has state");
    };
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Restored(&saved));
    assert_eq!(other.context.pci.save().unwrap(), Saved::Sections(saved));
    let mut data = [0; 4];
    assert!(other.context.mmio.read(0xd000_0000, &mut data));
}

#[test]
fn the_bar_plan_keeps_everybody_apart_and_inside_the_window() {
    let mut spaces = Vec::new();
    for slot in 0..32 {
        for function in 0..8 {
            spaces.push(BarPlan::function(
                PciAddress::new(0, slot, function).unwrap(),
            ));
        }
    }
    for bus in 1..=255 {
        let (base, length) = BarPlan::bus(bus);
        spaces.push((base, length));
        for function in 0..8 {
            let (at, len) = BarPlan::function(PciAddress::new(bus, 0, function).unwrap());
            assert!(at >= base && at + len <= base + length);
        }
    }
    spaces.sort_unstable();
    for pair in spaces.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0);
    }
    let (last, length) = *spaces.last().unwrap();
    assert!(last + length <= MMIO_END);
    assert_eq!(ECAM_BASE + ECAM_SIZE, spaces[0].0);
}

fn endpoint() -> super::config::ConfigSpace {
    let mut builder = ConfigBuilder::endpoint(Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 2,
    });
    builder.memory_bar(0xc000_0000, 0x8000);
    assert_eq!(
        builder.capability(0x09, &[1, 2, 3], &[0, 0xff, 0]),
        Some(0x40)
    );
    assert_eq!(builder.capability(0x11, &[0; 10], &[]), Some(0x48));
    builder.build()
}

#[test]
fn bars_size_as_the_specification_says() {
    let mut config = endpoint();
    config.write(0x10, &[0xff; 8]);
    assert_eq!(config.u32(0x10), 0xffff_8004);
    assert_eq!(config.u32(0x14), 0xffff_ffff);
    config.write(0x10, &0x1_2345_6789_u64.to_le_bytes());
    assert_eq!(config.decoded_bar(), Some(0x1_2345_0000));
    config.write(0x04, &[0, 0]);
    assert_eq!(config.decoded_bar(), None);
}

#[test]
fn capabilities_form_a_list_and_full_files_refuse() {
    let config = endpoint();
    assert_eq!(config.u8(0x34), 0x40);
    assert_eq!((config.u8(0x40), config.u8(0x41)), (0x09, 0x48));
    assert_eq!((config.u8(0x48), config.u8(0x49)), (0x11, 0));
    assert_eq!(config.u16(0x06) & 0x10, 0x10);
    let mut builder = ConfigBuilder::endpoint(Identity::default());
    assert_eq!(builder.capability(1, &[0; 190], &[]), Some(0x40));
    assert_eq!(builder.capability(1, &[], &[]), None);
}

/// The register of a function through the ports, as firmware reaches it.
fn select(machine: &FakeMachine, bus: u32, slot: u32, register: u32) {
    let address = 0x8000_0000 | bus << 16 | slot << 11 | register;
    assert!(machine.context.pio.write(0xcf8, &address.to_le_bytes()));
}

fn get(machine: &FakeMachine, (bus, slot, register): (u32, u32, u32)) -> u32 {
    select(machine, bus, slot, register);
    let mut data = [0; 4];
    assert!(machine.context.pio.read(0xcfc, &mut data));
    u32::from_le_bytes(data)
}

fn put(machine: &FakeMachine, (bus, slot, register): (u32, u32, u32), value: u32) {
    select(machine, bus, slot, register);
    assert!(machine.context.pio.write(0xcfc, &value.to_le_bytes()));
}

#[test]
fn with_firmware_nothing_has_a_place_before_it_is_given_one() {
    let machine = FakeMachine::with_firmware(0x1000);
    let answers = |address: u64| machine.context.mmio.read(address, &mut [0; 4]);
    let spec = DeviceSpec {
        id: "pci.5".into(),
        address: PciAddress::new(0, 2, 0),
        kind: DeviceKind::PcieRootPort(RootPortSpec {
            bus: 5,
            port: 1,
            chassis: 1,
        }),
    };
    let port = registry::create(&spec, &machine.context, Origin::Fresh).expect("a port");
    let address = PciAddress::new(5, 0, 0).expect("an address");
    let disk = block::in_memory(address, 1 << 20, false, &machine.context).expect("a disk");
    assert!(!answers(ECAM_BASE), "the ECAM");
    assert_eq!(get(&machine, (0, 2, 0x18)), 0, "bus numbers");
    assert_eq!(get(&machine, (5, 0, 0)), u32::MAX);

    put(&machine, (0, 2, 0x18), 0x01_01_00);
    assert_eq!(get(&machine, (1, 0, 0)), 0x1042_1af4);
    assert_eq!(get(&machine, (1, 0, 4)) & 0xffff, 0, "decoding");
    assert_eq!(
        get(&machine, (1, 0, 0x10)),
        4,
        "a 64-bit BAR without an address"
    );
    put(&machine, (1, 0, 0x10), u32::MAX);
    let size = !(get(&machine, (1, 0, 0x10)) & !0xf) + 1;
    let base = 0xfe40_0000;
    put(&machine, (1, 0, 0x10), base);
    assert!(!answers(base.into()));
    put(&machine, (1, 0, 4), 2);
    assert!(answers(base.into()) && answers(u64::from(base + size - 4)));
    put(&machine, (0, 0, 0x60), ECAM_BASE as u32 | 1);
    assert!(answers(ECAM_BASE));

    // A reset takes all of it back.
    for device in [&disk, &port] {
        device.pause();
        device.reset();
        device.resume();
    }
    machine.context.pci.reset();
    assert!(!answers(base.into()) && !answers(ECAM_BASE));
    assert_eq!(get(&machine, (1, 0, 0)), u32::MAX);
}

proptest! {
    #[test]
    fn read_only_bits_never_change(writes in prop::collection::vec((0_u16..300, any::<[u8; 4]>()), 0..64)) {
        let (mut config, fresh) = (endpoint(), endpoint());
        for (offset, data) in &writes {
            config.write(*offset, data);
        }
        for offset in [0x00, 0x08, 0x2c, 0x34, 0x40, 0x48] {
            prop_assert_eq!(config.u32(offset) & 0xffff, fresh.u32(offset) & 0xffff);
        }
        let state = config.state();
        let mut restored = endpoint();
        restored.restore(&state).unwrap();
        prop_assert_eq!(restored.state(), state);
        config.reset();
        prop_assert_eq!(config.state(), fresh.state());
    }

    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u64..ECAM_SIZE, any::<bool>(), 1_usize..9, any::<[u8; 8]>()), 0..64)
    ) {
        let machine = FakeMachine::new(0x1000);
        for (offset, write, len, data) in accesses {
            // Most of the space is empty: aim at the two bridges half of the time.
            let offset = if offset % 2 == 0 { offset } else { offset & 0xf_ffff & !0xf_8000 };
            let mut data = data;
            if write {
                machine.context.mmio.write(ECAM_BASE + offset, &data[..len]);
            } else {
                machine.context.mmio.read(ECAM_BASE + offset, &mut data[..len]);
            }
            machine.context.pio.write(0xcf8 + offset % 8, &data[..len.min(4)]);
        }
    }
}

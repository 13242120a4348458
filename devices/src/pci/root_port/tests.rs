//! Root ports through configuration accesses only.

use crate::device::Device;
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, PciAddress, RootPortSpec};

fn spec(slot: u8, bus: u8) -> DeviceSpec {
    DeviceSpec {
        id: format!("pci.{bus}"),
        address: PciAddress::new(0, slot, 0),
        kind: DeviceKind::PcieRootPort(RootPortSpec {
            bus,
            port: slot,
            chassis: bus,
        }),
    }
}

fn port(machine: &FakeMachine, slot: u8, bus: u8) -> Arc<dyn Device> {
    registry::create(&spec(slot, bus), &machine.context, Origin::Fresh).expect("a free slot")
}

fn at(bus: u8, slot: u8) -> PciAddress {
    PciAddress::new(bus, slot, 0).unwrap()
}

#[test]
fn function_0_says_when_its_slot_has_more() {
    let machine = FakeMachine::new(0x1000);
    let _first = port(&machine, 2, 1);
    assert_eq!(machine.config::<1>(at(0, 2), 0x0e), [0x01]);
    let mut second = spec(2, 2);
    second.address = PciAddress::new(0, 2, 7);
    let second = registry::create(&second, &machine.context, Origin::Fresh).expect("a free slot");
    assert_eq!(machine.config::<1>(at(0, 2), 0x0e), [0x81]);
    assert_eq!(machine.config::<4>(at(0, 2), 0x0c)[2], 0x81);
    assert_eq!(machine.config::<1>(at(0, 2), 0x0f), [0]);
    let last = PciAddress::new(0, 2, 7).unwrap();
    assert_eq!(machine.config::<1>(last, 0x0e), [0x01]);
    assert_eq!(machine.config::<1>(at(0, 3), 0x0e), [0xff]);
    drop(second);
    assert_eq!(machine.config::<1>(at(0, 2), 0x0e), [0x01]);
}

/// Finds a capability by walking the list.
fn capability(machine: &FakeMachine, address: PciAddress, wanted: u8) -> Option<u16> {
    let [mut next] = machine.config::<1>(address, 0x34);
    while next != 0 {
        let [id, following] = machine.config::<2>(address, u16::from(next));
        if id == wanted {
            return Some(u16::from(next));
        }
        next = following;
    }
    None
}

#[test]
fn a_port_is_an_express_bridge_with_its_bus_and_window() {
    let machine = FakeMachine::new(0x1000);
    let _port = port(&machine, 2, 1);
    let address = at(0, 2);
    assert_eq!(u32::from_le_bytes(machine.config(address, 0)), 0x000c_1b36);
    assert_eq!(machine.config::<1>(address, 0x0e), [1]);
    assert_eq!(machine.config::<3>(address, 0x18), [0, 1, 1]);
    let [base_low, base_high, limit_low, limit_high] = machine.config::<4>(address, 0x20);
    assert_eq!([base_low, base_high], [0x00, 0xc1]);
    assert_eq!([limit_low, limit_high], [0x10, 0xc1]);
    let express = capability(&machine, address, 0x10).unwrap();
    let flags = u16::from_le_bytes(machine.config(address, express + 2));
    assert_eq!(flags, 0x0142);
    let slot = u32::from_le_bytes(machine.config(address, express + 0x14));
    assert_eq!(slot >> 19, 1);
    let link = u32::from_le_bytes(machine.config(address, express + 0x0c));
    assert_eq!(link >> 24, 2);
    assert!(capability(&machine, address, 0x05).is_some());
}

#[test]
fn accesses_below_a_port_follow_the_number_that_the_guest_gave() {
    let machine = FakeMachine::new(0x1000);
    let (_a, _b) = (port(&machine, 2, 1), port(&machine, 3, 2));
    // A host bridge stands in for a device: anything that has registers will do.
    let below = crate::pci::config::ConfigBuilder::endpoint(crate::pci::config::Identity {
        vendor: 0x1234,
        device: 0x5678,
        ..Default::default()
    });
    struct Function(crate::pci::config::ConfigSpace);
    impl crate::pci::PciFunction for Function {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            self.0.read(offset, data);
        }
        fn write_config(&self, _offset: u16, _data: &[u8]) {}
    }
    let function: Arc<dyn crate::pci::PciFunction> = Arc::new(Function(below.build()));
    let express = capability(&machine, at(0, 3), 0x10).unwrap();
    let presence = |machine: &FakeMachine| {
        let [status, _] = machine.config::<2>(at(0, 3), express + 0x1a);
        status & 0x40 != 0
    };
    assert!(!presence(&machine));
    let slot = machine.context.pci.plug(at(2, 0), &function).unwrap();
    assert!(presence(&machine));
    assert!(machine.context.pci.plug(at(2, 0), &function).is_err());
    assert_eq!(machine.config::<2>(at(2, 0), 0), [0x34, 0x12]);
    assert_eq!(machine.config::<2>(at(2, 1), 0), [0xff; 2]);
    machine.set_config(at(0, 3), 0x18, &[0, 9, 9]);
    assert_eq!(machine.config::<2>(at(2, 0), 0), [0xff; 2]);
    assert_eq!(machine.config::<2>(at(9, 0), 0), [0x34, 0x12]);
    drop(slot);
    assert!(!presence(&machine));
    assert_eq!(machine.config::<2>(at(9, 0), 0), [0xff; 2]);
}

#[test]
fn a_bus_has_one_port() {
    let machine = FakeMachine::new(0x1000);
    let first = port(&machine, 2, 1);
    let again = registry::create(&spec(3, 1), &machine.context, Origin::Fresh);
    assert!(again.is_err());
    assert_eq!(
        machine.config::<2>(at(0, 3), 0),
        [0xff; 2],
        "nothing stays behind"
    );
    drop(first);
    let _now = port(&machine, 3, 1);
}

#[test]
fn saving_restoring_and_saving_again_is_the_same() {
    let machine = FakeMachine::new(0x1000);
    let device = port(&machine, 2, 1);
    machine.set_config(at(0, 2), 0x18, &[0, 5, 6]);
    machine.set_config(at(0, 2), 0x20, &[0x20, 0xc2, 0x30, 0xc2]);
    let Saved::Sections(saved) = device.save().unwrap() else {
        panic!("a port has state");
    };
    let other = FakeMachine::new(0x1000);
    let restored = registry::create(&spec(2, 1), &other.context, Origin::Restored(&saved)).unwrap();
    assert_eq!(restored.save().unwrap(), Saved::Sections(saved));
    assert_eq!(other.config::<3>(at(0, 2), 0x18), [0, 5, 6]);
    restored.reset();
    assert_eq!(other.config::<3>(at(0, 2), 0x18), [0, 1, 1]);
}

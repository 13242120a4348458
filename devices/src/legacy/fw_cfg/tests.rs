use super::*;
use crate::testing::{FakeMachine, clean, dirty};

const RAM: usize = 0x1_0000;

fn items() -> Vec<Item> {
    vec![
        Item::file("etc/zebra", vec![9; 5000]),
        Item::file("bootorder", b"/pci@i0cf8/scsi@3\0".to_vec()),
        Item::number(0x05, &2u16.to_le_bytes()),
    ]
}

fn device(machine: &FakeMachine, origin: Origin<'_>) -> Result<FwCfg, CreateError> {
    FwCfg::create(
        &machine.context.pio,
        machine.memory.clone(),
        items(),
        origin,
    )
}

/// Selects an item and reads from its beginning, through the ports.
fn read(machine: &FakeMachine, key: u16, len: usize) -> Vec<u8> {
    machine.context.pio.write(0x510, &key.to_le_bytes());
    let byte = || {
        let mut byte = [0xff];
        assert!(machine.context.pio.read(0x511, &mut byte));
        byte[0]
    };
    (0..len).map(|_| byte()).collect()
}

/// Asks for an access; what its control field says afterwards.
fn dma(machine: &FakeMachine, at: u64, (control, length, address): (u32, u32, u64)) -> u32 {
    let memory = machine.memory.memory();
    let mut bytes = control.to_be_bytes().to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    memory.write_slice(&bytes, GuestAddress(at)).expect("RAM");
    machine
        .context
        .pio
        .write(0x514, &((at >> 32) as u32).to_be_bytes());
    machine.context.pio.write(0x518, &(at as u32).to_be_bytes());
    let mut word = [0; 4];
    memory.read_slice(&mut word, GuestAddress(at)).expect("RAM");
    u32::from_be_bytes(word)
}

/// Size, key and name of each file.
fn directory(machine: &FakeMachine) -> Vec<(u32, u16, String)> {
    let count = read(machine, 0x19, 4);
    let count = u32::from_be_bytes(count.try_into().expect("4 bytes")) as usize;
    let bytes = read(machine, 0x19, 4 + count * 64);
    let entry = |entry: &[u8]| {
        let size = u32::from_be_bytes(entry[..4].try_into().expect("4 bytes"));
        let key = u16::from_be_bytes(entry[4..6].try_into().expect("2 bytes"));
        let name = String::from_utf8(entry[8..].to_vec()).expect("a name");
        (size, key, name.trim_end_matches('\0').to_string())
    };
    bytes[4..].chunks(64).map(entry).collect()
}

#[test]
fn items_are_found_by_number_and_by_name() {
    let machine = FakeMachine::new(RAM);
    let _device = device(&machine, Origin::Fresh).expect("free ports");
    assert_eq!(read(&machine, 0, 5), b"QEMU\0");
    assert_eq!(read(&machine, 1, 4), [3, 0, 0, 0]);
    assert_eq!(read(&machine, 5, 3), [2, 0, 0]);
    assert_eq!(read(&machine, 0x8001, 2), [0, 0], "not there: zeros");
    let files = directory(&machine);
    let expected = [(18, 0x20, "bootorder"), (5000, 0x21, "etc/zebra")];
    assert_eq!(
        files,
        expected.map(|(size, key, name)| (size, key, name.into()))
    );
    assert_eq!(read(&machine, 0x20, 19)[10..], *b"/scsi@3\0\0");
    let mut signature = [0; 8];
    let (high, low) = signature.split_at_mut(4);
    machine.context.pio.read(0x514, high);
    machine.context.pio.read(0x518, low);
    assert_eq!(&signature, b"QEMU CFG");
}

#[test]
fn a_transfer_reaches_ram_and_marks_it() {
    let machine = FakeMachine::new(RAM);
    let _device = device(&machine, Origin::Fresh).expect("free ports");
    let memory = machine.memory.memory();
    clean(&memory);
    let select = |key: u32| key << 16 | control::SELECT;
    let read = select(0x21) | control::READ;
    assert_eq!(dma(&machine, 0x100, (read, 6000, 0x2ffe)), 0);
    let mut bytes = vec![1; 6000];
    memory
        .read_slice(&mut bytes, GuestAddress(0x2ffe))
        .expect("RAM");
    assert!(bytes[..5000].iter().all(|byte| *byte == 9));
    assert!(bytes[5000..].iter().all(|byte| *byte == 0));
    let pages: Vec<usize> = dirty(&memory).into_iter().map(|(_, page)| page).collect();
    assert_eq!(pages, [0, 2, 3, 4]);
    // Skipping and going on.
    let skip = select(0x20) | control::SKIP;
    assert_eq!(dma(&machine, 0x100, (skip, 11, 0)), 0);
    assert_eq!(dma(&machine, 0x100, (control::READ, 6, 0x5000)), 0);
    let mut name = [0; 6];
    memory
        .read_slice(&mut name, GuestAddress(0x5000))
        .expect("RAM");
    assert_eq!(&name, b"scsi@3");
}

#[test]
fn what_cannot_be_done_is_an_error_and_changes_nothing() {
    let machine = FakeMachine::new(RAM);
    let _device = device(&machine, Origin::Fresh).expect("free ports");
    let read = 0x21 << 16 | control::SELECT | control::READ;
    let end = RAM as u64;
    for (control, length, address) in [
        (read, 2, end - 1),
        (read, 1, u64::MAX),
        (read, u32::MAX, 0),
        (read, MAX_TRANSFER + 1, 0),
        (control::WRITE | control::SELECT, 1, 0x5000),
    ] {
        let result = dma(&machine, 0x100, (control, length, address));
        assert_eq!(result, control::ERROR, "{length:#x} at {address:#x}");
    }
    let mut last = [7];
    let memory = machine.memory.memory();
    memory
        .read_slice(&mut last, GuestAddress(end - 1))
        .expect("RAM");
    assert_eq!(last, [0], "a transfer is done whole or not at all");
    // A description that is not in RAM cannot be answered.
    machine.context.pio.write(0x518, &u32::MAX.to_be_bytes());
}

#[test]
fn a_restored_device_goes_on_with_the_items_it_was_saved_with() {
    let machine = FakeMachine::new(RAM);
    let first = device(&machine, Origin::Fresh).expect("free ports");
    read(&machine, 0x20, 11);
    machine.context.pio.write(0x514, &1u32.to_be_bytes());
    let saved = first.save().expect("plain data");
    let Saved::Sections(sections) = &saved else {
        panic!("it has state")
    };
    let other = FakeMachine::new(RAM);
    let newer = vec![Item::file("other", vec![1])];
    let (pio, memory) = (&other.context.pio, other.memory.clone());
    let second = FwCfg::create(pio, memory, newer, Origin::Restored(sections));
    let second = second.expect("its own state");
    assert_eq!(second.save().expect("plain data"), saved);
    let mut byte = [0];
    assert!(pio.read(0x511, &mut byte));
    assert_eq!(byte, *b"s");
    assert_eq!(directory(&other).len(), 2);
    second.reset();
    assert!(pio.read(0x511, &mut byte));
    assert_eq!(byte, *b"Q", "the first item is selected after a reset");
}

#[test]
fn items_that_do_not_fit_are_refused() {
    let long = "x".repeat(56);
    let bad = [
        vec![Item::file(&long, vec![])],
        vec![Item::file("a\0b", vec![])],
        vec![Item::file("a", vec![]), Item::file("a", vec![1])],
        vec![Item::number(0x19, &[])],
        vec![Item::number(0, &[])],
        vec![Item::file("a", vec![0; MAX_ITEM + 1])],
        (0..=MAX_ITEMS)
            .map(|n| Item::file(&n.to_string(), vec![]))
            .collect(),
    ];
    for items in bad {
        let count = items.len();
        assert!(Items::new(items).is_err(), "{count}");
    }
}

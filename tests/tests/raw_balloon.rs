//! The balloon under our `vmm` on this machine's KVM, driven by the test guest: what it gives up leaves
//! the process, comes back as zeros, and takes no room in saved state.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use tests::machine::{Builder, Machine};
use tests::{have_kvm, skip_unless};
use vmm_api::console::Attach;
use vmm_api::control::{Reply, Request, Status};
use vmm_api::spec::{BalloonSpec, DeviceKind, DeviceSpec, MachineSpec, MemoryBacking, PciAddress};
use vmm_api::state::Adjustment;

const NO_KVM: &str = "/dev/kvm cannot be opened";
/// RAM of the guest, and what is left of it.
const ALL: u64 = 128 << 20;
const HALF: u64 = 64 << 20;

fn add_balloon(spec: &mut MachineSpec) {
    spec.devices.push(DeviceSpec {
        id: "balloon0".into(),
        address: PciAddress::new(0, 19, 0),
        kind: DeviceKind::VirtioBalloon(BalloonSpec {
            free_page_reporting: true,
            ..BalloonSpec::default()
        }),
    });
}

fn add_shared(spec: &mut MachineSpec) {
    spec.memory.backing = MemoryBacking::SharedMemfd;
    add_balloon(spec);
}

fn builder() -> Builder {
    Builder::guest("test=balloon").adjust(add_balloon)
}

fn set(machine: &mut Machine, bytes: u64) {
    let setting = Adjustment::Memory { bytes };
    let done = machine.request(Request::Adjust { setting });
    assert!(matches!(done, Ok(Reply::Done)), "{done:?}");
    machine.expect(&format!("holds {} pages", (ALL - bytes) / 4096));
}

fn status(machine: &Machine) -> Status {
    match machine.request(Request::Query) {
        Ok(Reply::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

fn counters(machine: &Machine) -> serde_json::Value {
    let device = Some("balloon0".into());
    match machine.request(Request::Stats { device }) {
        Ok(Reply::Stats { mut devices }) => devices.remove("balloon0").expect("a balloon"),
        other => panic!("{other:?}"),
    }
}

fn resident(machine: &Machine) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", machine.pid())).expect("a status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .expect("a size")
        * 1024
}

fn type_key(machine: &Machine, key: &[u8]) {
    let typist = Attach {
        write: true,
        force: true,
    };
    let (_, mut keyboard) = machine.console(typist).expect("a console");
    keyboard.write_all(key).expect("typed");
}

#[test]
fn memory_leaves_the_process_and_comes_back_as_zeros() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    for shared in [false, true] {
        let adjust = if shared { add_shared } else { add_balloon };
        let mut machine = builder().adjust(adjust).start().expect("start");
        machine.expect("ready");
        let full = resident(&machine);
        assert_eq!(status(&machine).memory_left, Some(ALL));
        set(&mut machine, HALF);
        let half = resident(&machine);
        // The process itself takes a little more or less than it did.
        assert!(half + HALF <= full + HALF / 8, "{full} bytes became {half}");
        assert_eq!(status(&machine).memory_left, Some(HALF));
        set(&mut machine, ALL);
        assert_eq!(status(&machine).memory_left, Some(ALL));
        type_key(&machine, b"r");
        machine.expect("reported 4194304 bytes");
        let counters = counters(&machine);
        assert_eq!(counters["reported_bytes"], 4 << 20);
        assert_eq!(counters["returned_bytes"], HALF + (4 << 20));
        assert_eq!(
            (&counters["outside"], &counters["refused"]),
            (&0.into(), &0.into())
        );
        println!("shared: {shared}; {full} bytes, {half} with half of the memory");
        type_key(&machine, b"q");
        machine.expect_pass();
    }
}

#[test]
fn a_balloon_survives_a_save_and_what_is_in_it_takes_no_room() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let mut machine = builder().start().expect("start");
    machine.expect("ready");
    machine.save(&state).expect("saved");
    let full = fs::metadata(&state).expect("a file").blocks() * 512;
    machine.request(Request::Resume).expect("resumed");
    set(&mut machine, HALF);
    machine.save(&state).expect("saved");
    let half = fs::metadata(&state).expect("a file").blocks() * 512;
    drop(machine);
    assert!(half + HALF / 2 < full, "{full} bytes became {half}");

    let mut machine = builder().restore(&state).paused().start().expect("start");
    assert_eq!(status(&machine).memory_left, Some(HALF));
    // A target may change while it stands still; the guest hears of it when it goes on.
    let setting = Adjustment::Memory { bytes: ALL };
    let done = machine.request(Request::Adjust { setting });
    assert!(matches!(done, Ok(Reply::Done)), "{done:?}");
    machine.request(Request::Resume).expect("resumed");
    machine.expect("holds 0 pages");
    // RAM is a private mapping of the saved state now, and can be given up all the same.
    set(&mut machine, HALF);
    set(&mut machine, ALL);
    let returned = counters(&machine)["returned_bytes"].as_u64();
    assert!(returned >= Some(HALF / 2), "{returned:?}");
    type_key(&machine, b"q");
    machine.expect_pass();
}

#[test]
fn what_a_machine_cannot_do_is_refused() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = builder().start().expect("start");
    machine.expect("ready");
    for bytes in [ALL + 4096, 4097] {
        let setting = Adjustment::Memory { bytes };
        let error = machine.request(Request::Adjust { setting });
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("134217728"), "{error}");
    }
    type_key(&machine, b"q");
    machine.expect_pass();
    let mut machine = Builder::guest("test=echo").start().expect("start");
    machine.expect("ready");
    let setting = Adjustment::StatsPeriod { seconds: 1 };
    let error = machine.request(Request::Adjust { setting });
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("no memory balloon"), "{error}");
}

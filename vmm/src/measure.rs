//! How fast guest kernel code runs here: a throw-away machine of one vCPU and a loop in ring 0.
//!
//! ```text
//! guest: in eax, PORT -> count down from it -> in eax, PORT -> ...
//! we:    answer with a count, look at the clock; ten times as much until a round takes long enough
//! ```
//!
//! It takes some ten milliseconds on a processor and on KVM's emulator alike. It must never run longer
//! because a host is slow: a round's size only grows from what the last one took. There is no
//! interrupt controller and no device, so nothing but the loop is measured.

use crate::arch::registers::boot_registers;
use crate::boot::Entry;
use crate::kvm::{Exit, KvmError, System, Vcpu, Vm};
use crate::{memory, sandbox};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};
use vmm_api::spec::MemorySpec;
use vmm_api::speed::KernelSpeed;

/// Where the loop lies.
const CODE: u32 = 0x1000;
/// The port that the guest asks for its next count.
const PORT: u16 = 0xf4;
/// ```text
/// 0: in eax, 0xf4    2: mov ecx, eax    4: dec ecx    5: jnz 4    7: jmp 0
/// ```
const LOOP: [u8; 9] = [0xe5, 0xf4, 0x89, 0xc1, 0x49, 0x75, 0xfd, 0xeb, 0xf7];
/// The first round, some milliseconds where code is emulated.
const FIRST: u32 = 1000;
/// The largest round, a second at one nanosecond.
const LARGEST: u32 = 1_000_000_000;
/// A round that takes this long is long enough to be believed.
const ENOUGH: Duration = Duration::from_millis(3);
/// That many of those, the fastest of which counts: on a busy host others take their turns.
const ROUNDS: usize = 3;

/// Measures with the `/dev/kvm` behind `fd`; one JSON object.
///
/// # Errors
/// What KVM would not do, in words.
pub fn run(fd: RawFd) -> Result<String, String> {
    let kvm = sandbox::take_one(fd).map_err(|error| error.to_string())?;
    let system = System::new(kvm).map_err(|error| error.to_string())?;
    let speed = measure(&system)?;
    serde_json::to_string(&speed).map_err(|error| error.to_string())
}

/// Times ever larger rounds until they are long enough.
///
/// # Errors
/// As [`run`].
pub fn measure(system: &System) -> Result<KernelSpeed, String> {
    let (_vm, mut vcpu) = machine(system)?;
    let mut count = FIRST;
    let mut started = None;
    let mut rounds = Vec::new();
    loop {
        match vcpu.run().map_err(|error| error.to_string())? {
            Exit::PortRead {
                port: PORT, data, ..
            } => {
                if let Some(took) = started.map(|time: Instant| time.elapsed()) {
                    if took >= ENOUGH || count >= LARGEST {
                        rounds.push(took);
                    } else {
                        rounds.clear();
                        count = count.saturating_mul(10).min(LARGEST);
                    }
                }
                if rounds.len() == ROUNDS {
                    break;
                }
                for (byte, value) in data.iter_mut().zip(count.to_le_bytes()) {
                    *byte = value;
                }
                started = Some(Instant::now());
            }
            Exit::Interrupted | Exit::Again => {}
            other => return Err(format!("the loop of kernel code ended with {other:?}")),
        }
    }
    let best = rounds.iter().min().map_or(0, Duration::as_nanos);
    Ok(KernelSpeed {
        iterations: u64::from(count),
        nanoseconds: u64::try_from(best).unwrap_or(u64::MAX),
    })
}

fn machine(system: &System) -> Result<(Vm, Vcpu), String> {
    let words = |error: KvmError| error.to_string();
    let ram = memory::build(&MemorySpec::anonymous(1 << 20)).map_err(|error| error.to_string())?;
    ram.write_slice(&LOOP, GuestAddress(u64::from(CODE)))
        .map_err(|error| format!("the loop cannot be written to guest RAM: {error}"))?;
    let mut vm = system.create_vm().map_err(words)?;
    vm.set_memory(Arc::new(ram)).map_err(words)?;
    let vcpu = vm.create_vcpu(0).map_err(words)?;
    let cpuid = system.supported_cpuid().map_err(words)?;
    vcpu.set_cpuid(&cpuid).map_err(words)?;
    let entry = Entry::Pvh {
        entry: CODE,
        start_info: 0,
    };
    let mut system_registers = vcpu.system_registers().map_err(words)?;
    let registers = boot_registers(&entry, &mut system_registers);
    vcpu.set_system_registers(&system_registers)
        .map_err(words)?;
    vcpu.set_registers(&registers).map_err(words)?;
    Ok((vm, vcpu))
}

//! The machine spec: everything a `vmm` needs to be one machine, and nothing else.
//!
//! It is frozen once the process has it: JSON in a file whose descriptor is passed as
//! `vmm --spec-fd N`. Files are named by descriptor number ([`Fd`]); a path stands beside it only for
//! messages. A spec must never name a path to open: the `vmm` opens none.

mod boot;
mod check;
mod console;
mod cpu;
mod device;
mod display;
mod fds;
mod limits;
mod mac;
mod memory;
mod pci;

pub use boot::{BootSpec, FIRMWARE_STEP, FirmwareSpec, MAX_BOOT_WAIT, MAX_FIRMWARE};
pub use check::{MIN_MEMORY, Problem, RESERVED_IDS};
pub use console::{ConsoleSpec, MAX_CONSOLE_PORTS, PortSpec, PortStream};
pub use cpu::{CpuModel, CpuSpec, CpuTopology, FeaturePolicy, FeatureRule, MAX_APIC_ID, MAX_VCPUS};
pub use device::{
    BalloonSpec, BlkSpec, CacheMode, DebugConsoleSpec, DebugExitSpec, DetectZeroes, DeviceKind,
    DeviceSpec, DiscardMode, ErrorPolicy, ImageFormat, ImageSpec, IoEngine, NetBackend, NetSpec,
    PvPanicSpec, RngSpec, RootPortSpec, SerialSpec,
};
pub use display::{
    GpuSpec, InputModel, InputSpec, MAX_RESOLUTION, MAX_VIDEO_MEMORY, MIN_RESOLUTION, SharePolicy,
    VncSpec,
};
pub use limits::{IoLimits, LIMIT_NAMES, MAX_BURST_SECONDS, MAX_RATE, Rate, Rates};
pub use mac::{MacAddress, MacAddressError};
pub use memory::{MemoryBacking, MemorySpec};
pub use pci::{PciAddress, PciAddressError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The spec format that this build writes and reads.
pub const SPEC_VERSION: u32 = 1;

/// The newest machine version: PCI IDs and slots, ACPI bytes, feature bits and the memory map.
pub const MACHINE_NEWEST: &str = "vm-q35-1";

/// A descriptor number in the `vmm` process, inherited or received with a control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fd(pub i32);

/// A file by descriptor, with the name that messages use for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFd {
    /// The descriptor.
    pub fd: Fd,
    /// What to call it in messages; never opened.
    pub name: String,
}

/// A log of bounded size. The files are opened by the manager, newest first; when the first is full
/// its content moves one file on and it starts again, so no path is ever opened or renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// One to eight files, newest content first.
    pub files: Vec<Fd>,
    /// Bytes that one file may hold; at least 4096.
    pub max_bytes: u64,
}

/// What happens when the guest ends by itself; libvirt's `on_poweroff`, `on_reboot`, `on_crash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndAction {
    /// The process ends.
    Destroy,
    /// The machine is reset and runs on in the same process.
    Restart,
    /// The machine stays, paused, for a look.
    Preserve,
}

/// The three end actions of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndActions {
    /// After the guest powered off.
    pub on_poweroff: EndAction,
    /// After the guest asked for a reset.
    pub on_reboot: EndAction,
    /// After the guest crashed.
    pub on_crash: EndAction,
}

impl Default for EndActions {
    fn default() -> Self {
        Self {
            on_poweroff: EndAction::Destroy,
            on_reboot: EndAction::Restart,
            on_crash: EndAction::Destroy,
        }
    }
}

/// Where the machine's state comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Origin {
    /// A cold boot.
    #[default]
    Fresh,
    /// A snapshot container, read through this descriptor; the spec's devices must match it.
    Restore {
        /// The container.
        state: NamedFd,
    },
}

/// What the host side of the process was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// An open `/dev/kvm`.
    pub kvm: Option<Fd>,
    /// A listening Unix stream socket for the control protocol.
    #[serde(default)]
    pub control: Option<Fd>,
    /// The run lock: held open for as long as the process lives, never touched otherwise.
    #[serde(default)]
    pub run_lock: Option<Fd>,
    /// Where the [`crate::end::EndRecord`] goes.
    #[serde(default)]
    pub end_reason: Option<Fd>,
    /// Files for the cores of a guest that crashes, before the action of `on_crash` unless that is
    /// preserve: empty, one for each crash, of which the later ones are for a guest that restarts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<NamedFd>,
    /// The process's own log; standard error when absent.
    #[serde(default)]
    pub log: Option<LogSpec>,
    /// The VNC server, with graphics.
    #[serde(default)]
    pub vnc: Option<VncSpec>,
    /// Start with the vCPUs paused (`virsh start --paused`).
    #[serde(default)]
    pub start_paused: bool,
    /// Seconds that SIGTERM gives the guest to power down before the process ends it.
    #[serde(default = "default_powerdown_seconds")]
    pub powerdown_seconds: u32,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            kvm: Default::default(),
            control: Default::default(),
            run_lock: Default::default(),
            end_reason: Default::default(),
            cores: Default::default(),
            log: Default::default(),
            vnc: Default::default(),
            start_paused: false,
            powerdown_seconds: default_powerdown_seconds(),
        }
    }
}

fn default_powerdown_seconds() -> u32 {
    60
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// [`SPEC_VERSION`] of the writer.
    pub version: u32,
    /// The domain's name, for messages and the process title.
    pub name: String,
    /// The domain's UUID; the guest reads it from SMBIOS.
    pub uuid: Uuid,
    /// Machine version, such as [`MACHINE_NEWEST`].
    pub machine: String,
    /// Virtual CPUs.
    pub cpus: CpuSpec,
    /// Guest RAM.
    pub memory: MemorySpec,
    /// What to boot.
    pub boot: BootSpec,
    /// What to do when the guest ends.
    #[serde(default)]
    pub end_actions: EndActions,
    /// Seconds that the CMOS clock is ahead of UTC at power-on: 0, or the host's zone offset for
    /// guests that keep local time (`<clock offset='localtime'/>`).
    #[serde(default)]
    pub rtc_offset: i32,
    /// Devices beside the ones that every machine of this version has.
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
    /// Fresh or restored.
    #[serde(default)]
    pub origin: Origin,
    /// Descriptors of the process itself.
    pub host: HostSpec,
}

impl MachineSpec {
    /// Parses a spec.
    ///
    /// # Errors
    /// What is wrong and where, in serde's words; a version that this build does not know.
    pub fn from_json(text: &[u8]) -> Result<Self, SpecError> {
        let spec: Self = serde_json::from_slice(text)?;
        if spec.version != SPEC_VERSION {
            return Err(SpecError::Version {
                found: spec.version,
            });
        }
        Ok(spec)
    }

    /// The spec as JSON, pretty enough for a person who looks into the run directory.
    ///
    /// # Errors
    /// Only when serialising fails, which plain data does not.
    pub fn to_json(&self) -> Result<Vec<u8>, SpecError> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Every descriptor that the spec names.
    pub fn fds(&self) -> Vec<Fd> {
        fds::all(self)
    }

    /// Every conflict in the spec; empty when the machine can be built from it.
    pub fn check(&self) -> Vec<Problem> {
        check::check(self)
    }
}

/// A spec that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or not of this shape.
    #[error("the machine spec is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// Written for another version.
    #[error("the machine spec has version {found}, this build knows {SPEC_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
}

#[cfg(test)]
mod tests;

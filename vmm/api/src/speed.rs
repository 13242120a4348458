//! How fast this host's KVM runs guest kernel code: what `vmm --measure-fd` answers.
//!
//! One JSON object on standard output. Paravirtual hosts run guests' user code on the processor and
//! emulate their kernels, hundreds of times slower; no flag of KVM tells, so it is measured.

use serde::{Deserialize, Serialize};

/// From this many nanoseconds per iteration on nobody runs the loop on a processor: real ones take
/// one to three, an emulated processor with virtualization some tens, KVM's instruction emulator over
/// a thousand.
const EMULATED: f64 = 200.0;
/// Instructions of one iteration.
const INSTRUCTIONS: f64 = 2.0;
/// What a stock kernel executes until its first program, in instructions.
const BOOT: f64 = 1e9;

/// A loop of two instructions in ring 0, timed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSpeed {
    /// Iterations of the loop, at least 1.
    pub iterations: u64,
    /// Nanoseconds that all of them took.
    pub nanoseconds: u64,
}

impl KernelSpeed {
    /// Nanoseconds of one iteration.
    #[allow(clippy::cast_precision_loss)]
    pub fn per_iteration(&self) -> f64 {
        self.nanoseconds as f64 / self.iterations.max(1) as f64
    }

    /// Whether guest kernel code is interpreted rather than run.
    pub fn emulated(&self) -> bool {
        self.per_iteration() >= EMULATED
    }

    /// Seconds that a stock kernel's boot would take at this speed, at the least.
    pub fn boot_seconds(&self) -> f64 {
        self.per_iteration() / INSTRUCTIONS * BOOT / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_lies_between_processors_and_emulators() {
        let speed = |nanoseconds| KernelSpeed {
            iterations: 1000,
            nanoseconds,
        };
        assert!(!speed(400).emulated(), "a processor");
        assert!(!speed(60_000).emulated(), "a processor that is emulated");
        assert!(speed(1_400_000).emulated(), "KVM's emulator");
        assert!(speed(1_400_000).boot_seconds() > 600.0);
    }

    #[test]
    fn an_empty_measurement_divides_nothing_by_zero() {
        let nothing = KernelSpeed {
            iterations: 0,
            nanoseconds: 5,
        };
        assert!(nothing.per_iteration().is_finite());
    }
}

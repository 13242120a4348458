//! Limits of a guest's group (cgroup-v2, "Interface Files"; systemd.resource-control(5)): plain values,
//! and how a cgroup directory or systemd is told of them. Must never decide where a guest goes.

/// What a guest may take of the host beside others; nothing is limited where there is no value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its share of CPU time beside others, 1 to 10000; everybody has 100.
    pub cpu_weight: Option<u64>,
    /// The most CPU time of its whole process.
    pub cpu_max: Option<CpuMax>,
    /// The most memory in bytes, the guest's RAM included; beyond it the kernel ends the process.
    pub memory_max: Option<u64>,
    /// Memory in bytes from which on the kernel takes some back.
    pub memory_high: Option<u64>,
    /// Its share of what disks can do beside others, 1 to 10000; everybody has 100.
    pub io_weight: Option<u64>,
}

/// So many microseconds of CPU time in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax {
    /// CPU time, of all processors together.
    pub quota_us: u64,
    /// The period, 1000 to 1000000.
    pub period_us: u64,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Files of a cgroup v2 directory, with the controller that each belongs to.
    pub fn files(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut files = Vec::new();
        if let Some(weight) = self.cpu_weight {
            files.push(("cpu", "cpu.weight", weight.to_string()));
        }
        if let Some(max) = self.cpu_max {
            let value = format!("{} {}", max.quota_us, max.period_us);
            files.push(("cpu", "cpu.max", value));
        }
        if let Some(bytes) = self.memory_max {
            files.push(("memory", "memory.max", bytes.to_string()));
        }
        if let Some(bytes) = self.memory_high {
            files.push(("memory", "memory.high", bytes.to_string()));
        }
        if let Some(weight) = self.io_weight {
            files.push(("io", "io.weight", format!("default {weight}")));
        }
        files
    }

    /// Properties of a systemd scope, all of them 64-bit numbers.
    pub fn properties(&self) -> Vec<(&'static str, u64)> {
        let mut properties = Vec::new();
        properties.extend(self.cpu_weight.map(|weight| ("CPUWeight", weight)));
        if let Some(max) = self.cpu_max {
            let each_second =
                u128::from(max.quota_us) * 1_000_000 / u128::from(max.period_us.max(1));
            let each_second = u64::try_from(each_second).unwrap_or(u64::MAX);
            properties.push(("CPUQuotaPerSecUSec", each_second));
            properties.push(("CPUQuotaPeriodUSec", max.period_us));
        }
        properties.extend(self.memory_max.map(|bytes| ("MemoryMax", bytes)));
        properties.extend(self.memory_high.map(|bytes| ("MemoryHigh", bytes)));
        properties.extend(self.io_weight.map(|weight| ("IOWeight", weight)));
        properties
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_in_the_words_of_each() {
        let limits = Limits {
            cpu_weight: Some(200),
            cpu_max: Some(CpuMax {
                quota_us: 50_000,
                period_us: 100_000,
            }),
            memory_max: Some(1 << 30),
            memory_high: None,
            io_weight: Some(300),
        };
        let files = limits.files();
        let files: Vec<_> = files.iter().map(|(_, f, v)| (*f, v.as_str())).collect();
        assert_eq!(
            files,
            [
                ("cpu.weight", "200"),
                ("cpu.max", "50000 100000"),
                ("memory.max", "1073741824"),
                ("io.weight", "default 300")
            ]
        );
        assert_eq!(
            limits.properties(),
            [
                ("CPUWeight", 200),
                ("CPUQuotaPerSecUSec", 500_000),
                ("CPUQuotaPeriodUSec", 100_000),
                ("MemoryMax", 1 << 30),
                ("IOWeight", 300)
            ]
        );
        assert!(Limits::default().is_empty() && Limits::default().files().is_empty());
    }
}

//! Limits of a guest's group (cgroup-v2, "Interface Files"; systemd.resource-control(5)): plain values,
//! and how a cgroup directory or systemd is told of them. Must never decide where a guest goes.

use std::ops::RangeInclusive;

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
    /// CPU time, of all processors together; any where there is none.
    pub quota_us: Option<u64>,
    /// The period, 1000 to 1000000.
    pub period_us: u64,
}

impl CpuMax {
    /// What the kernel begins with.
    pub const ANY: Self = Self {
        quota_us: None,
        period_us: 100_000,
    };
}

/// One limit as it shall be; without a value it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::cpu_weight`].
    CpuWeight(Option<u64>),
    /// [`Limits::cpu_max`].
    CpuMax(CpuMax),
    /// [`Limits::memory_max`].
    MemoryMax(Option<u64>),
    /// [`Limits::memory_high`].
    MemoryHigh(Option<u64>),
    /// [`Limits::io_weight`].
    IoWeight(Option<u64>),
}

/// Weights of a cgroup v2 (cgroup-v2, "Weights").
pub const WEIGHTS: RangeInclusive<u64> = 1..=10_000;
/// Microseconds that CPU time may be counted in.
pub const PERIODS: RangeInclusive<u64> = 1000..=1_000_000;
/// Microseconds of CPU time in a period, as libvirt takes them.
pub const QUOTAS: RangeInclusive<u64> = 1000..=17_592_186_044_415;
/// What everybody has whose weight nobody set (cgroup-v2, "Weights").
pub const WEIGHT: u64 = 100;
/// systemd's number for no limit, and for a weight that nobody set.
const UNSET: u64 = u64::MAX;

impl Limit {
    /// The file of a cgroup v2 directory, the controller that it belongs to, and what is written.
    pub fn file(self) -> (&'static str, &'static str, String) {
        let weight = |weight: Option<u64>| weight.unwrap_or(WEIGHT);
        let bytes = |bytes: Option<u64>| bytes.map_or("max".into(), |bytes| bytes.to_string());
        match self {
            Self::CpuWeight(value) => ("cpu", "cpu.weight", weight(value).to_string()),
            Self::CpuMax(max) => {
                let value = format!("{} {}", bytes(max.quota_us), max.period_us);
                ("cpu", "cpu.max", value)
            }
            Self::MemoryMax(value) => ("memory", "memory.max", bytes(value)),
            Self::MemoryHigh(value) => ("memory", "memory.high", bytes(value)),
            Self::IoWeight(value) => ("io", "io.weight", format!("default {}", weight(value))),
        }
    }

    /// Properties of a systemd scope, all of them 64-bit numbers.
    pub fn properties(self) -> Vec<(&'static str, u64)> {
        match self {
            Self::CpuWeight(value) => vec![("CPUWeight", value.unwrap_or(UNSET))],
            Self::CpuMax(max) => {
                let each_second = |quota: u64| {
                    let time =
                        (u128::from(quota) * 1_000_000).div_ceil(u128::from(max.period_us.max(1)));
                    u64::try_from(time).unwrap_or(UNSET)
                };
                let each_second = max.quota_us.map_or(UNSET, each_second);
                vec![
                    ("CPUQuotaPerSecUSec", each_second),
                    ("CPUQuotaPeriodUSec", max.period_us),
                ]
            }
            Self::MemoryMax(value) => vec![("MemoryMax", value.unwrap_or(UNSET))],
            Self::MemoryHigh(value) => vec![("MemoryHigh", value.unwrap_or(UNSET))],
            Self::IoWeight(value) => vec![("IOWeight", value.unwrap_or(UNSET))],
        }
    }
}

impl Limits {
    /// The limit of the same kind among these.
    pub fn like(&self, limit: Limit) -> Limit {
        match limit {
            Limit::CpuWeight(_) => Limit::CpuWeight(self.cpu_weight),
            Limit::CpuMax(_) => Limit::CpuMax(self.cpu_max.unwrap_or(CpuMax::ANY)),
            Limit::MemoryMax(_) => Limit::MemoryMax(self.memory_max),
            Limit::MemoryHigh(_) => Limit::MemoryHigh(self.memory_high),
            Limit::IoWeight(_) => Limit::IoWeight(self.io_weight),
        }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that have a value.
    pub fn given(&self) -> Vec<Limit> {
        let all = [
            self.cpu_weight.map(|weight| Limit::CpuWeight(Some(weight))),
            self.cpu_max.map(Limit::CpuMax),
            self.memory_max.map(|bytes| Limit::MemoryMax(Some(bytes))),
            self.memory_high.map(|bytes| Limit::MemoryHigh(Some(bytes))),
            self.io_weight.map(|weight| Limit::IoWeight(Some(weight))),
        ];
        all.into_iter().flatten().collect()
    }

    /// Files of a cgroup v2 directory, with the controller that each belongs to.
    pub fn files(&self) -> Vec<(&'static str, &'static str, String)> {
        self.given().into_iter().map(Limit::file).collect()
    }

    /// Properties of a systemd scope.
    pub fn properties(&self) -> Vec<(&'static str, u64)> {
        self.given()
            .into_iter()
            .flat_map(Limit::properties)
            .collect()
    }

    /// What the files of a cgroup v2 directory say; `read` gives a file's text, where there is one.
    pub fn of_files(read: impl Fn(&str) -> Option<String>) -> Self {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let cpu_max = |text: &str| {
            let (quota, period) = text.trim().split_once(' ')?;
            Some(CpuMax {
                quota_us: number(quota),
                period_us: number(period)?,
            })
        };
        let io_weight = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix("default "));
            number(line.unwrap_or(text))
        };
        let value = |name: &str| read(name).and_then(|text| number(&text));
        Self {
            cpu_weight: value("cpu.weight"),
            cpu_max: read("cpu.max").and_then(|text| cpu_max(&text)),
            memory_max: value("memory.max"),
            memory_high: value("memory.high"),
            io_weight: read("io.weight").and_then(|text| io_weight(&text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Limits {
        Limits {
            cpu_weight: Some(200),
            cpu_max: Some(CpuMax {
                quota_us: Some(50_000),
                period_us: 100_000,
            }),
            memory_max: Some(1 << 30),
            memory_high: None,
            io_weight: Some(300),
        }
    }

    #[test]
    fn limits_are_told_in_the_words_of_each() {
        let limits = some();
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
        // systemd counts by the second and rounds down on the way back.
        let odd = Limit::CpuMax(CpuMax {
            quota_us: Some(1000),
            period_us: 3000,
        });
        assert_eq!(odd.properties()[0], ("CPUQuotaPerSecUSec", 333_334));
        assert!(Limits::default().is_empty() && Limits::default().files().is_empty());
    }

    #[test]
    fn a_limit_that_ends_is_the_kernels_own_value() {
        let ends = [
            Limit::CpuWeight(None),
            Limit::CpuMax(CpuMax::ANY),
            Limit::MemoryMax(None),
            Limit::IoWeight(None),
        ];
        let files: Vec<String> = ends.map(|limit| limit.file().2).into();
        assert_eq!(files, ["100", "max 100000", "max", "default 100"]);
        let unset = |limit: Limit| limit.properties().first().is_some_and(|p| p.1 == u64::MAX);
        assert!(ends.into_iter().all(unset));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let limits = some();
        let files = limits.files();
        let read = |name: &str| {
            let found = files.iter().find(|(_, file, _)| *file == name);
            found.map(|(.., text)| format!("{text}\n"))
        };
        assert_eq!(Limits::of_files(read), limits);
        let unlimited = Limits::of_files(|name| match name {
            "cpu.max" => Some("max 50000\n".into()),
            "cpu.weight" => Some("100\n".into()),
            _ => Some("max\n".into()),
        });
        let max = CpuMax {
            quota_us: None,
            period_us: 50_000,
        };
        assert_eq!((unlimited.cpu_max, unlimited.memory_max), (Some(max), None));
        assert_eq!(Limits::of_files(|_| None), Limits::default());
    }
}

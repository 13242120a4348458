//! How much a guest may ask of a disk: libvirt's `<iotune>`.

use serde::{Deserialize, Serialize};

/// Longest burst, in seconds, and largest number of a limit: libvirt's.
pub const MAX_BURST_SECONDS: u64 = 1_000_000;
/// Largest number of bytes or requests a second.
pub const MAX_RATE: u64 = 1_000_000_000_000_000;

/// One limit, in bytes or requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// A second, over a longer time; 0: no limit.
    #[serde(default)]
    pub average: u64,
    /// A second, in a burst; 0: what a tenth of a second has may come at once.
    #[serde(default)]
    pub burst: u64,
    /// How many seconds a burst may last; 0 stands for 1.
    #[serde(default)]
    pub seconds: u64,
}

/// Limits of reads and writes together, and of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Both together.
    #[serde(default)]
    pub total: Rate,
    /// Reads.
    #[serde(default)]
    pub read: Rate,
    /// Writes.
    #[serde(default)]
    pub write: Rate,
}

/// All limits of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// In bytes.
    #[serde(default)]
    pub bytes: Rates,
    /// In requests.
    #[serde(default)]
    pub requests: Rates,
    /// Bytes that count as one request; a larger one counts as several. 0: each counts as one.
    #[serde(default)]
    pub request_size: u64,
}

/// libvirt's names of all limits (formatdomain, "iotune"), in virsh's order.
pub const LIMIT_NAMES: [&str; 19] = [
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "total_bytes_sec_max",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_iops_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "size_iops_sec",
    "total_bytes_sec_max_length",
    "read_bytes_sec_max_length",
    "write_bytes_sec_max_length",
    "total_iops_sec_max_length",
    "read_iops_sec_max_length",
    "write_iops_sec_max_length",
];

impl IoLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        let rates = |rates: &Rates| [rates.total, rates.read, rates.write];
        let mut all = rates(&self.bytes).into_iter().chain(rates(&self.requests));
        all.all(|rate| rate.average == 0)
    }

    /// The number with this name; `None` for none of [`LIMIT_NAMES`].
    pub fn number(&mut self, name: &str) -> Option<&mut u64> {
        if name == "size_iops_sec" {
            return Some(&mut self.request_size);
        }
        let (name, which) = match name.strip_suffix("_max_length") {
            Some(name) => (name, 2),
            None => match name.strip_suffix("_max") {
                Some(name) => (name, 1),
                None => (name, 0),
            },
        };
        let (way, unit) = name.split_once('_')?;
        let rates = match unit {
            "bytes_sec" => &mut self.bytes,
            "iops_sec" => &mut self.requests,
            _ => return None,
        };
        let rate = match way {
            "total" => &mut rates.total,
            "read" => &mut rates.read,
            "write" => &mut rates.write,
            _ => return None,
        };
        Some(match which {
            2 => &mut rate.seconds,
            1 => &mut rate.burst,
            _ => &mut rate.average,
        })
    }

    /// The first thing that is wrong with the numbers, in libvirt's names.
    ///
    /// # Errors
    /// What it is.
    pub fn check(mut self) -> Result<(), String> {
        let mut get = |name: &str| self.number(name).map_or(0, |number| *number);
        for name in LIMIT_NAMES {
            let most = match name.ends_with("_length") {
                true => MAX_BURST_SECONDS,
                false => MAX_RATE,
            };
            if get(name) > most {
                return Err(format!("{name} is more than {most}"));
            }
            let needed = name.strip_suffix("_length").or(name.strip_suffix("_max"));
            if let Some(needed) = needed
                && get(name) > 0
                && get(needed) == 0
            {
                return Err(format!("{name} cannot be set if {needed} is not set"));
            }
            if let Some(average) = name.strip_suffix("_max")
                && get(name) > 0
                && get(name) < get(average)
            {
                return Err(format!("{name} cannot be smaller than {average}"));
            }
            if let Some(kind) = name.strip_prefix("total_")
                && get(name) > 0
                && (get(&format!("read_{kind}")) > 0 || get(&format!("write_{kind}")) > 0)
            {
                return Err(format!(
                    "total and read/write of {kind} cannot be set at the same time"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(numbers: &[(&str, u64)]) -> IoLimits {
        let mut limits = IoLimits::default();
        for (name, value) in numbers {
            *limits.number(name).expect("a name") = *value;
        }
        limits
    }

    #[test]
    fn every_name_is_a_number_of_its_own() {
        let numbers: Vec<_> = LIMIT_NAMES.into_iter().zip(1..).collect();
        let mut all = limits(&numbers);
        for (name, value) in numbers {
            assert_eq!(all.number(name), Some(&mut value.clone()), "{name}");
        }
        assert_eq!(all.number("total_bytes"), None);
        assert_eq!(all.number("both_iops_sec"), None);
        assert!(IoLimits::default().is_none() && !all.is_none());
        // What limits nothing by itself.
        assert!(limits(&[("size_iops_sec", 4096)]).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (numbers, part) in [
            (
                &[("read_iops_sec_max", 5)][..],
                "if read_iops_sec is not set",
            ),
            (
                &[("read_iops_sec", 5), ("read_iops_sec_max_length", 5)],
                "if read_iops_sec_max is not set",
            ),
            (
                &[("total_bytes_sec", 5), ("total_bytes_sec_max", 4)],
                "smaller",
            ),
            (
                &[("total_bytes_sec", 5), ("read_bytes_sec", 4)],
                "same time",
            ),
            (&[("write_bytes_sec", u64::MAX)], "more than"),
        ] {
            let said = limits(numbers).check().unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let fine = [
            ("read_bytes_sec", 5),
            ("write_bytes_sec", 6),
            ("total_iops_sec", 7),
            ("total_iops_sec_max", 70),
            ("total_iops_sec_max_length", 9),
        ];
        assert_eq!(limits(&fine).check(), Ok(()));
    }
}

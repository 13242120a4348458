//! OpenMetrics text, as Prometheus and its kin read it (OpenMetrics 1.0, section 3.2): families one
//! after the other, each with its type, unit and help before its samples, and `# EOF` at the end.

use std::fmt::{Display, Write};

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A value that only grows; its samples end in `_total`.
    Counter,
    /// Facts in labels; its samples end in `_info` and are 1.
    Info,
}

/// A text under construction.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family. A name with a unit ends in it.
    pub fn family(&mut self, name: &str, kind: Kind, unit: &str, help: &str) -> Family<'_> {
        let (word, suffix) = match kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
            Kind::Info => ("info", "_info"),
        };
        debug_assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")));
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# TYPE {name} {word}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {}", escape(help));
        Family {
            text: self,
            sample: format!("{name}{suffix}"),
        }
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut Text,
    sample: String,
}

impl Family<'_> {
    /// A sample with its labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text.0, "{}{labels} {value}", self.sample);
        self
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Nanoseconds as seconds, exactly.
pub fn seconds(nanoseconds: u64) -> String {
    format!(
        "{}.{:09}",
        nanoseconds / 1_000_000_000,
        nanoseconds % 1_000_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_the_form_of_the_specification() {
        let mut text = Text::default();
        text.family("a_seconds", Kind::Counter, "seconds", "Time.")
            .sample(&[("domain", "a\"\\\nb")], seconds(1_500_000_000));
        text.family("b", Kind::Gauge, "", "Count.").sample(&[], 3);
        assert_eq!(
            text.end(),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Time.\n\
             a_seconds_total{domain=\"a\\\"\\\\\\nb\"} 1.500000000\n\
             # TYPE b gauge\n# HELP b Count.\nb 3\n# EOF\n"
        );
    }
}

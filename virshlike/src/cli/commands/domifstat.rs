//! `vm domifstat`

use super::domblkstat::classes;
use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::model::Domain;
use crate::runtime::Guest;

/// virsh's words for the counters of an interface: direction, and which of its counters.
const COUNTERS: &[(&str, &str, &str)] = &[
    ("rx_bytes", "rx", "bytes"),
    ("rx_packets", "rx", "packets"),
    ("rx_errs", "rx", "errors"),
    ("rx_drop", "rx", "dropped"),
    ("tx_bytes", "tx", "bytes"),
    ("tx_packets", "tx", "packets"),
    ("tx_errs", "tx", "errors"),
    ("tx_drop", "tx", "dropped"),
];

/// Directions whose times are kept.
const DIRECTIONS: &[(&str, &str)] = &[("rx", "rx"), ("tx", "tx")];

/// Print the counters of a running domain's network interface, as its guest sees them
#[derive(Debug, clap::Args)]
pub struct Domifstat {
    /// The domain: name, id or UUID
    domain: String,
    /// The interface: its tap, such as vnet0, or its MAC address
    interface: String,
    /// Show how long bursts of frames took instead, in classes that double from one to the next
    #[arg(long)]
    histogram: bool,
}

impl Verb for Domifstat {
    const NAME: &'static str = "domifstat";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = manager.running(&domain)?;
        let (_, model) = manager.current_definition(&domain, Some(&guest))?;
        let alias = alias_of(&model, &guest, &self.interface)?;
        let stats = manager.device_stats(&guest)?;
        let counters = stats.get(&alias).ok_or_else(|| {
            let what = format!("the process of '{}' does not count '{alias}'", model.name);
            Error::new(Kind::Guest, what)
        })?;
        if context.ui.is_json() {
            return context.ui.json(counters);
        }
        if self.histogram {
            let mut table = Table::new(&["Interface", "Direction", "Below", "Bursts"]);
            for [direction, limit, count] in classes(counters, DIRECTIONS) {
                table.row([self.interface.clone(), direction, limit, count]);
            }
            return context.ui.data(&table.render(context.ui.quiet));
        }
        for (words, direction, counter) in COUNTERS {
            let value = counters.get(direction).and_then(|kind| kind.get(counter));
            let value = value.and_then(serde_json::Value::as_u64).unwrap_or(0);
            let line = format!("{} {words} {value}", self.interface);
            context.ui.line(line)?;
        }
        Ok(())
    }
}

/// The alias of the interface that a person names by tap or MAC address.
fn alias_of(model: &Domain, guest: &Guest, wanted: &str) -> Result<String> {
    let tap = |alias: &str| guest.record.taps.get(alias).map(String::as_str);
    let found = model.interfaces.iter().find(|interface| {
        let mac = interface.mac.map(|mac| mac.to_string());
        tap(&interface.alias) == Some(wanted)
            || mac.is_some_and(|mac| mac.eq_ignore_ascii_case(wanted))
    });
    found
        .map(|interface| interface.alias.clone())
        .ok_or_else(|| {
            // One without a tap is known by its address.
            let names: Vec<String> = model
                .interfaces
                .iter()
                .filter_map(|interface| match tap(&interface.alias) {
                    Some(tap) => Some(tap.to_string()),
                    None => interface.mac.map(|mac| mac.to_string()),
                })
                .collect();
            let error = Error::new(
                Kind::NotFound,
                format!("domain '{}' has no interface '{wanted}'", model.name),
            );
            if names.is_empty() {
                return error.hint("it has none at all");
            }
            error.hint(format!("it has {}", names.join(", ")))
        })
}

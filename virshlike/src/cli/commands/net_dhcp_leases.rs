//! `vm net-dhcp-leases`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// List the addresses that a network's guests have by DHCP
#[derive(Debug, clap::Args)]
pub struct NetDhcpLeases {
    /// The network: name or UUID
    network: String,
    /// Only those of the card with this address
    #[arg(long)]
    mac: Option<String>,
}

impl Verb for NetDhcpLeases {
    const NAME: &'static str = "net-dhcp-leases";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let leases = networks.leases(&found, self.mac.as_deref())?;
        if context.ui.is_json() {
            return context.ui.json(&leases);
        }
        let mut table = Table::new(&[
            "Expiry Time",
            "MAC address",
            "Protocol",
            "IP address",
            "Hostname",
            "Client ID or DUID",
        ]);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        for lease in leases {
            table.row([
                or_dash(lease.expiry.and_then(local_time)),
                or_dash(lease.mac),
                lease.protocol.to_string(),
                format!("{}/{}", lease.address, lease.prefix),
                or_dash(lease.hostname),
                or_dash(lease.client_id),
            ]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}

/// A time as virsh prints it.
fn local_time(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    Some(local.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

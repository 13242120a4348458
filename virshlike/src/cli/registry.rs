//! Every verb, once, in virsh's groups. Adding a verb: one file under [`super::commands`], one line
//! here.

use super::Context;
use super::commands as verb;
use crate::error::Result;
use clap::{ArgMatches, Command};
use std::process::ExitCode;

/// virsh's groups, as `vm help` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Changing and running domains.
    Domain,
    /// Looking at domains.
    Monitoring,
    /// Virtual networks.
    Network,
    /// Disk images in files.
    Image,
    /// The host and the connection.
    Host,
    /// vm itself.
    Shell,
}

impl Group {
    /// In the order of `vm help`.
    pub const ALL: [Self; 6] = [
        Self::Domain,
        Self::Monitoring,
        Self::Network,
        Self::Image,
        Self::Host,
        Self::Shell,
    ];

    /// Title and keyword.
    pub fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Domain => ("Domain Management", "domain"),
            Self::Monitoring => ("Domain Monitoring", "monitor"),
            Self::Network => ("Networking", "network"),
            Self::Image => ("Disk Images", "image"),
            Self::Host => ("Host and Hypervisor", "host"),
            Self::Shell => ("vm itself", "vm"),
        }
    }
}

/// A verb: the struct is the argument list, its documentation the help text.
pub trait Verb: clap::Args {
    /// What is typed.
    const NAME: &'static str;
    /// Where `vm help` shows it.
    const GROUP: Group;

    /// Does it.
    ///
    /// # Errors
    /// What the person should read.
    fn run(self, context: &Context) -> Result<()>;

    /// Does it, with an exit code of its own; only for verbs that have answers beside failure.
    ///
    /// # Errors
    /// What the person should read.
    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        self.run(context).map(|()| ExitCode::SUCCESS)
    }
}

/// A verb in the registry.
#[derive(Debug)]
pub struct Entry {
    /// What is typed.
    pub name: &'static str,
    /// Where `vm help` shows it.
    pub group: Group,
    /// Its command line.
    pub command: fn() -> Command,
    /// Does it.
    pub run: fn(&ArgMatches, &Context) -> Result<ExitCode>,
}

impl Entry {
    /// The entry of a verb.
    pub const fn of<V: Verb>() -> Self {
        Self {
            name: V::NAME,
            group: V::GROUP,
            command: || V::augment_args(Command::new(V::NAME)),
            run: |matches, context| {
                let verb =
                    V::from_arg_matches(matches).map_err(|error| super::usage(&error, V::NAME))?;
                verb.run_with_code(context)
            },
        }
    }
}

/// Every verb.
pub const ENTRIES: &[Entry] = &[
    Entry::of::<verb::autostart::Autostart>(),
    Entry::of::<verb::autostart_all::AutostartAll>(),
    Entry::of::<verb::blkdeviotune::Blkdeviotune>(),
    Entry::of::<verb::memtune::Blkiotune>(),
    Entry::of::<verb::capabilities::Capabilities>(),
    Entry::of::<verb::completion::Completion>(),
    Entry::of::<verb::console::Console>(),
    Entry::of::<verb::cpu_baseline::CpuBaseline>(),
    Entry::of::<verb::cpu_compare::CpuCompare>(),
    Entry::of::<verb::cpu_models::CpuModels>(),
    Entry::of::<verb::cpu_stats::CpuStats>(),
    Entry::of::<verb::create::Create>(),
    Entry::of::<verb::daemon::Daemon>(),
    Entry::of::<verb::define::Define>(),
    Entry::of::<verb::desc::Desc>(),
    Entry::of::<verb::destroy::Destroy>(),
    Entry::of::<verb::diff::Diff>(),
    Entry::of::<verb::domblkerror::Domblkerror>(),
    Entry::of::<verb::domblkinfo::Domblkinfo>(),
    Entry::of::<verb::domblklist::Domblklist>(),
    Entry::of::<verb::domblkstat::Domblkstat>(),
    Entry::of::<verb::domcontrol::Domcontrol>(),
    Entry::of::<verb::vncdisplay::Domdisplay>(),
    Entry::of::<verb::capabilities::Domcapabilities>(),
    Entry::of::<verb::domfsfreeze::Domfsfreeze>(),
    Entry::of::<verb::domfsinfo::Domfsinfo>(),
    Entry::of::<verb::domfsfreeze::Domfsthaw>(),
    Entry::of::<verb::domfstrim::Domfstrim>(),
    Entry::of::<verb::domhostname::Domhostname>(),
    Entry::of::<verb::domid::Domid>(),
    Entry::of::<verb::domifaddr::Domifaddr>(),
    Entry::of::<verb::domif_getlink::DomifGetlink>(),
    Entry::of::<verb::domif_reconnect::DomifReconnect>(),
    Entry::of::<verb::domiflist::Domiflist>(),
    Entry::of::<verb::domifstat::Domifstat>(),
    Entry::of::<verb::dominfo::Dominfo>(),
    Entry::of::<verb::domjobabort::Domjobabort>(),
    Entry::of::<verb::domjobinfo::Domjobinfo>(),
    Entry::of::<verb::dommemstat::Dommemstat>(),
    Entry::of::<verb::domname::Domname>(),
    Entry::of::<verb::domrename::Domrename>(),
    Entry::of::<verb::domstate::Domstate>(),
    Entry::of::<verb::domstats::Domstats>(),
    Entry::of::<verb::domtime::Domtime>(),
    Entry::of::<verb::domuuid::Domuuid>(),
    Entry::of::<verb::dump::Dump>(),
    Entry::of::<verb::dumpxml::Dumpxml>(),
    Entry::of::<verb::edit::Edit>(),
    Entry::of::<verb::vcpupin::Emulatorpin>(),
    Entry::of::<verb::event::Event>(),
    Entry::of::<verb::node_stats::Freecell>(),
    Entry::of::<verb::freepages::Freepages>(),
    Entry::of::<verb::guestinfo::Guestinfo>(),
    Entry::of::<verb::guestvcpus::Guestvcpus>(),
    Entry::of::<verb::help::Help>(),
    Entry::of::<verb::history::History>(),
    Entry::of::<verb::host_check::HostCheck>(),
    Entry::of::<verb::hostname::Hostname>(),
    Entry::of::<verb::cpu_baseline::HypervisorCpuBaseline>(),
    Entry::of::<verb::cpu_compare::HypervisorCpuCompare>(),
    Entry::of::<super::image::Image>(),
    Entry::of::<verb::iothreadinfo::Iothreadinfo>(),
    Entry::of::<verb::vcpupin::Iothreadpin>(),
    Entry::of::<verb::list::List>(),
    Entry::of::<verb::logs::Logs>(),
    Entry::of::<verb::maxvcpus::Maxvcpus>(),
    Entry::of::<verb::memtune::Memtune>(),
    Entry::of::<verb::metadata::Metadata>(),
    Entry::of::<verb::metrics::Metrics>(),
    Entry::of::<verb::net_autostart::NetAutostart>(),
    Entry::of::<verb::net_create::NetCreate>(),
    Entry::of::<verb::net_define::NetDefine>(),
    Entry::of::<verb::net_destroy::NetDestroy>(),
    Entry::of::<verb::net_dhcp_leases::NetDhcpLeases>(),
    Entry::of::<verb::net_dumpxml::NetDumpxml>(),
    Entry::of::<verb::net_edit::NetEdit>(),
    Entry::of::<verb::net_event::NetEvent>(),
    Entry::of::<verb::net_info::NetInfo>(),
    Entry::of::<verb::net_list::NetList>(),
    Entry::of::<verb::net_name::NetName>(),
    Entry::of::<verb::net_start::NetStart>(),
    Entry::of::<verb::net_undefine::NetUndefine>(),
    Entry::of::<verb::net_update::NetUpdate>(),
    Entry::of::<verb::net_uuid::NetUuid>(),
    Entry::of::<verb::node_stats::Nodecpustats>(),
    Entry::of::<verb::node_stats::Nodememstats>(),
    Entry::of::<verb::nodecpumap::Nodecpumap>(),
    Entry::of::<verb::nodeinfo::Nodeinfo>(),
    Entry::of::<verb::qemu_agent_command::QemuAgentCommand>(),
    Entry::of::<verb::reboot::Reboot>(),
    Entry::of::<verb::reset::Reset>(),
    Entry::of::<verb::resume::Resume>(),
    Entry::of::<verb::schedinfo::Schedinfo>(),
    Entry::of::<verb::screenshot::Screenshot>(),
    Entry::of::<verb::send_key::SendKey>(),
    Entry::of::<verb::set_user_password::SetUserPassword>(),
    Entry::of::<verb::setmem::Setmaxmem>(),
    Entry::of::<verb::setmem::Setmem>(),
    Entry::of::<verb::shell::Shell>(),
    Entry::of::<verb::shutdown::Shutdown>(),
    Entry::of::<verb::shutdown_all::ShutdownAll>(),
    Entry::of::<verb::start::Start>(),
    Entry::of::<verb::suspend::Suspend>(),
    Entry::of::<verb::top::Top>(),
    Entry::of::<verb::ttyconsole::Ttyconsole>(),
    Entry::of::<verb::undefine::Undefine>(),
    Entry::of::<verb::uri::Uri>(),
    Entry::of::<verb::vcpucount::Vcpucount>(),
    Entry::of::<verb::vcpuinfo::Vcpuinfo>(),
    Entry::of::<verb::vcpupin::Vcpupin>(),
    Entry::of::<verb::version::Version>(),
    Entry::of::<verb::vncdisplay::Vncdisplay>(),
];

/// The verb with this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

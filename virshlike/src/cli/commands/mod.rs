//! The verbs, one file each. A file holds the argument struct, whose documentation is the help text,
//! and the words that are printed; what a verb means is in `manager`.

pub mod autostart;
pub mod autostart_all;
pub mod capabilities;
pub mod completion;
pub mod console;
pub mod cpu_baseline;
pub mod cpu_compare;
pub mod cpu_models;
pub mod cpu_stats;
pub mod create;
pub mod daemon;
pub mod define;
pub mod desc;
pub mod destroy;
pub mod diff;
pub mod domblkerror;
pub mod domblkinfo;
pub mod domblklist;
pub mod domblkstat;
pub mod domcontrol;
pub mod domfsfreeze;
pub mod domfsinfo;
pub mod domfstrim;
pub mod domhostname;
pub mod domid;
pub mod domif_getlink;
pub mod domifaddr;
pub mod domiflist;
pub mod domifstat;
pub mod dominfo;
pub mod domjobabort;
pub mod domjobinfo;
pub mod dommemstat;
pub mod domname;
pub mod domrename;
pub mod domstate;
pub mod domstats;
pub mod domtime;
pub mod domuuid;
pub mod dump;
pub mod dumpxml;
pub mod edit;
pub mod event;
pub mod guestinfo;
pub mod guestvcpus;
pub mod help;
pub mod history;
pub mod host_check;
pub mod hostname;
pub mod iothreadinfo;
pub mod list;
pub mod logs;
pub mod maxvcpus;
pub mod metadata;
pub mod metrics;
pub mod node_stats;
pub mod nodecpumap;
pub mod nodeinfo;
pub mod qemu_agent_command;
pub mod reboot;
pub mod reset;
pub mod resume;
pub mod screenshot;
pub mod send_key;
pub mod set_user_password;
pub mod setmem;
pub mod shell;
pub mod shutdown;
pub mod shutdown_all;
pub mod start;
pub mod suspend;
pub mod top;
pub mod ttyconsole;
pub mod undefine;
pub mod uri;
pub mod vcpucount;
pub mod vcpuinfo;
pub mod vcpupin;
pub mod version;
pub mod vncdisplay;

/// What a guest says, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

//! The words of virsh, virt-install and virt-clone that this build has no verb for, in one table:
//! whoever types one learns that it is known, and what to do instead.
//!
//! A verb that gets built leaves this table in the same change; a test holds the two apart.

use crate::error::{Error, Kind};

/// Words that one answer fits. A word that ends in `*` stands for all that begin so.
pub struct Absent {
    words: &'static [&'static str],
    /// What they would do, as the object of "this build cannot".
    what: &'static str,
    /// What to do instead; empty where there is nothing.
    instead: &'static str,
    /// Whether it is to come; else it has no meaning here.
    to_come: bool,
}

const fn later(
    words: &'static [&'static str],
    what: &'static str,
    instead: &'static str,
) -> Absent {
    Absent {
        words,
        what,
        instead,
        to_come: true,
    }
}

const fn never(
    words: &'static [&'static str],
    what: &'static str,
    instead: &'static str,
) -> Absent {
    Absent {
        words,
        what,
        instead,
        to_come: false,
    }
}

/// All of them.
pub const TABLE: &[Absent] = &[
    later(
        &["snapshot-*", "checkpoint-*"],
        "snapshots of domains",
        "a qcow2 image of a domain that is shut off: vm image snapshot -c TAG FILE",
    ),
    later(
        &["save", "save-*", "restore", "managedsave", "managedsave-*"],
        "saving a domain's state in a file",
        "hold it in memory: vm suspend NAME",
    ),
    later(
        &["migrate", "migrate-*", "domdirtyrate-calc"],
        "moving a running domain to another host",
        "shut it off, copy its images and 'vm dumpxml --migratable NAME', and define it there",
    ),
    later(
        &[
            "attach-*",
            "detach-*",
            "update-device",
            "update-memory-device",
            "change-media",
            "domif-setlink",
            "blockresize",
        ],
        "changing the devices of a running domain",
        "change the definition, then start it again: vm edit NAME",
    ),
    later(
        &[
            "setvcpus",
            "setvcpu",
            "set-lifecycle-action",
            "iothreadadd",
            "iothreaddel",
            "iothreadset",
        ],
        "changing processors, iothreads and actions by a command",
        "change the definition, then start it again: vm edit NAME",
    ),
    later(
        &["numatune", "domiftune"],
        "changing a domain's nodes and the limits of its network cards by a command",
        "change the definition, then start it again: vm edit NAME",
    ),
    later(
        &[
            "blockcommit",
            "blockcopy",
            "blockjob",
            "blockpull",
            "backup-*",
            "domblkthreshold",
        ],
        "jobs on the disks of a running domain",
        "of a domain that is shut off: vm image commit, vm image rebase, vm image convert",
    ),
    later(
        &[
            "guest-agent-timeout",
            "get-user-sshkeys",
            "set-user-sshkeys",
            "dompmsuspend",
            "dompmwakeup",
        ],
        "keys and sleep of a guest by its agent",
        "'vm qemu-agent-command NAME COMMAND' says any command to it",
    ),
    later(
        &["net-port-*", "net-desc", "net-metadata", "nwfilter-*"],
        "ports and words of networks, and network filters",
        "vm net-list, vm net-info, vm net-dumpxml",
    ),
    later(
        &["iface-*"],
        "the network interfaces of this host",
        "use the host's own tools: ip link, ip addr",
    ),
    later(
        &["nodedev-*", "nodesuspend", "nodesevinfo", "sysinfo"],
        "the devices and the firmware of this host",
        "use the host's own tools: lspci, dmidecode, systemctl suspend",
    ),
    later(
        &["allocpages", "node-memory-tune"],
        "the memory settings of this host",
        "use the host's own: /sys/kernel/mm",
    ),
    later(
        &["inject-nmi"],
        "interrupting a guest that hangs",
        "vm reset NAME, or from its console: Magic SysRq",
    ),
    later(
        &["secret-*", "domlaunchsecinfo", "domsetlaunchsecstate"],
        "secrets and encrypted memory",
        "",
    ),
    later(
        &["install"],
        "installing a guest",
        "make a disk with 'vm image create' and a definition, then: vm define FILE",
    ),
    later(
        &["clone"],
        "cloning a domain",
        "'vm image convert' copies a disk; 'vm dumpxml' without <uuid> and <mac> defines another domain",
    ),
    never(
        &["pool-*", "vol-*", "find-storage-pool-sources*"],
        "storage pools: images are plain files here",
        "vm image create, vm image info, vm image resize",
    ),
    never(
        &[
            "domxml-from-native",
            "domxml-to-native",
            "qemu-attach",
            "qemu-monitor-command",
            "qemu-monitor-event",
        ],
        "QEMU: guests run under vmm, which has neither its command line nor its monitor",
        "vm dumpxml NAME",
    ),
    never(
        &["cd", "pwd", "echo", "connect", "exit", "quit"],
        "virsh's own shell; in ours, 'vm shell', there are cd, pwd and quit",
        "another store: vm -c URI COMMAND",
    ),
    never(
        &[
            "lxc-enter-namespace",
            "send-process-signal",
            "dom-fd-associate",
            "perf",
        ],
        "what no guest of this hypervisor has",
        "",
    ),
];

/// The answer to a word that is in the table.
pub fn find(word: &str) -> Option<Error> {
    let absent = TABLE.iter().find(|absent| absent.has(word))?;
    let message = match absent.to_come {
        true => format!("command '{word}' is not built yet"),
        false => format!("command '{word}' does not exist here"),
    };
    let error =
        Error::new(Kind::Unsupported, message).cause(format!("it is about {}", absent.what));
    Some(match absent.instead {
        "" => error,
        instead => error.hint(instead),
    })
}

impl Absent {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|pattern| {
            pattern
                .strip_suffix('*')
                .map_or(*pattern == word, |start| word.starts_with(start))
        })
    }

    /// The words as they are listed, and what they are about.
    pub fn line(&self) -> (String, &'static str) {
        (self.words.join(", "), self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::registry;

    #[test]
    fn nothing_that_is_built_is_called_absent() {
        for entry in registry::ENTRIES {
            assert!(
                find(entry.name).is_none(),
                "'{}' is built: take it out of the table",
                entry.name
            );
        }
    }

    /// The commands of virsh 9.0.0, as `virsh help` lists them.
    const VIRSH: &str = "
        allocpages attach-device attach-disk attach-interface autostart backup-begin
        backup-dumpxml blkdeviotune blkiotune blockcommit blockcopy blockjob blockpull
        blockresize capabilities cd change-media checkpoint-create checkpoint-create-as
        checkpoint-delete checkpoint-dumpxml checkpoint-edit checkpoint-info checkpoint-list
        checkpoint-parent connect console cpu-baseline cpu-compare cpu-models cpu-stats create
        define desc destroy detach-device detach-device-alias detach-disk detach-interface
        dom-fd-associate domblkerror domblkinfo domblklist domblkstat domblkthreshold
        domcapabilities domcontrol domdirtyrate-calc domdisplay domfsfreeze domfsinfo domfsthaw
        domfstrim domhostname domid domif-getlink domif-setlink domifaddr domiflist domifstat
        domiftune dominfo domjobabort domjobinfo domlaunchsecinfo dommemstat domname
        dompmsuspend dompmwakeup domrename domsetlaunchsecstate domstate domstats domtime
        domuuid domxml-from-native domxml-to-native dump dumpxml echo edit emulatorpin event
        exit find-storage-pool-sources find-storage-pool-sources-as freecell freepages
        get-user-sshkeys guest-agent-timeout guestinfo guestvcpus help hostname
        hypervisor-cpu-baseline hypervisor-cpu-compare iface-begin iface-bridge iface-commit
        iface-define iface-destroy iface-dumpxml iface-edit iface-list iface-mac iface-name
        iface-rollback iface-start iface-unbridge iface-undefine inject-nmi iothreadadd
        iothreaddel iothreadinfo iothreadpin iothreadset list lxc-enter-namespace managedsave
        managedsave-define managedsave-dumpxml managedsave-edit managedsave-remove maxvcpus
        memtune metadata migrate migrate-compcache migrate-getmaxdowntime migrate-getspeed
        migrate-postcopy migrate-setmaxdowntime migrate-setspeed net-autostart net-create
        net-define net-destroy net-dhcp-leases net-dumpxml net-edit net-event net-info net-list
        net-name net-port-create net-port-delete net-port-dumpxml net-port-list net-start
        net-undefine net-update net-uuid node-memory-tune nodecpumap nodecpustats
        nodedev-autostart nodedev-create nodedev-define nodedev-destroy nodedev-detach
        nodedev-dumpxml nodedev-event nodedev-info nodedev-list nodedev-reattach nodedev-reset
        nodedev-start nodedev-undefine nodeinfo nodememstats nodesevinfo nodesuspend numatune
        nwfilter-binding-create nwfilter-binding-delete nwfilter-binding-dumpxml
        nwfilter-binding-list nwfilter-define nwfilter-dumpxml nwfilter-edit nwfilter-list
        nwfilter-undefine perf pool-autostart pool-build pool-capabilities pool-create
        pool-create-as pool-define pool-define-as pool-delete pool-destroy pool-dumpxml
        pool-edit pool-event pool-info pool-list pool-name pool-refresh pool-start pool-undefine
        pool-uuid pwd qemu-agent-command qemu-attach qemu-monitor-command qemu-monitor-event
        quit reboot reset restore resume save save-image-define save-image-dumpxml
        save-image-edit schedinfo screenshot secret-define secret-dumpxml secret-event
        secret-get-value secret-list secret-set-value secret-undefine send-key
        send-process-signal set-lifecycle-action set-user-password set-user-sshkeys setmaxmem
        setmem setvcpu setvcpus shutdown snapshot-create snapshot-create-as snapshot-current
        snapshot-delete snapshot-dumpxml snapshot-edit snapshot-info snapshot-list
        snapshot-parent snapshot-revert start suspend sysinfo ttyconsole undefine update-device
        update-memory-device uri vcpucount vcpuinfo vcpupin version vncdisplay vol-clone
        vol-create vol-create-as vol-create-from vol-delete vol-download vol-dumpxml vol-info
        vol-key vol-list vol-name vol-path vol-pool vol-resize vol-upload vol-wipe
    ";

    #[test]
    fn every_command_of_virsh_is_built_or_says_what_to_do_instead() {
        for word in VIRSH.split_whitespace() {
            let built = registry::find(word).is_some();
            let answer = find(word);
            assert!(built != answer.is_some(), "{word}");
        }
    }

    #[test]
    fn words_are_found_by_name_and_by_beginning() {
        let error = find("snapshot-create-as").unwrap();
        assert_eq!(error.kind, Kind::Unsupported);
        assert_eq!(
            error.message,
            "command 'snapshot-create-as' is not built yet"
        );
        assert!(error.hints[0].contains("vm image snapshot"));
        assert!(
            find("pool-list")
                .unwrap()
                .message
                .contains("does not exist here")
        );
        assert!(find("strat").is_none());
    }
}

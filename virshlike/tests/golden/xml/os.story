== warnings
os.xml:6:34: warning: machine='pc-q35-7.2' is QEMU's; the domain gets our vm-q35-1
os.xml:10:5: warning: <boot dev='network'> has no effect: the firmware boots from no network: SeaBIOS has no PXE for virtio cards of its own, and option ROMs (iPXE) are not loaded yet

== refused at start
os.xml:5:3: error: there is nothing to boot: the definition has neither a <kernel> nor a disk with an image
  hint: add a <disk>, or <kernel>, <initrd> and <cmdline> to <os>
os.xml:5:17: error: firmware='efi' of <os>: UEFI is not built yet; BIOS (firmware='bios', or nothing said) and `<kernel>` are
os.xml:7:34: error: type='pflash' of <loader>: firmware in flash, which UEFI needs, is not built yet
os.xml:8:5: error: <nvram>: firmware variables are not built yet
os.xml:12:19: error: mode='sysinfo' of <smbios>: SMBIOS strings of one's own are not built yet
os.xml:14:3: error: <sysinfo>: SMBIOS strings and fw_cfg files of one's own are not built yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  19   <cpu mode='host-passthrough' check='none' migratable='on'/>


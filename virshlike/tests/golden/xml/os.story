== warnings
os.xml:6:34: warning: machine='pc-q35-7.2' is QEMU's; the domain gets our vm-q35-1
os.xml:11:5: warning: <bootmenu> has no effect: there is no boot menu

== refused at start
os.xml:5:3: error: <os> names no <kernel>, and booting from a disk needs firmware, which is not built yet
  hint: add <kernel>, <initrd> and <cmdline>
os.xml:5:17: error: firmware='efi' of <os>: firmware is not built yet; boot with `<kernel>`
os.xml:7:5: error: <loader>: firmware is not built yet; boot with `<kernel>`
os.xml:8:5: error: <nvram>: firmware variables are not built yet
os.xml:12:19: error: mode='sysinfo' of <smbios>: SMBIOS strings of one's own are not built yet
os.xml:14:3: error: <sysinfo>: SMBIOS strings and fw_cfg files of one's own are not built yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  19   <cpu mode='host-passthrough' check='none' migratable='on'/>


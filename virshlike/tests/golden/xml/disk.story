== warnings
disk.xml:13:54: warning: startupPolicy='optional' of <source> has no effect: a missing file always stops the start
disk.xml:30:30: warning: io='native' of <driver> has no effect: Linux AIO is not used; io_uring or threads do its work
disk.xml:37:44: warning: tray='open' of <target> has no effect: every tray starts closed

== refused at start
disk.xml:30:45: error: iommu='on' of <driver>: this option of virtio is not built yet
disk.xml:40:17: error: type='network' of <disk>: only files and block devices can be opened so far
disk.xml:46:7: error: <transient>: disks that forget what was written are not built yet
disk.xml:50:30: error: bus='ide' of <target>: there is no IDE; start with --map-to-virtio or say bus='virtio'

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  28       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  40       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  49       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  56     <memballoon model='virtio'>
  57       <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
  58     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  29       <alias name='virtio-disk0'/>
  37       <alias name='virtio-disk1'/>
  43       <alias name='virtio-disk2'/>
  53       <alias name='virtio-disk3'/>
  59       <alias name='ide0-0-0'/>
  63       <alias name='balloon0'/>


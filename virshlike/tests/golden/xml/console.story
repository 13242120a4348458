== warnings


== refused at start


== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  11     <memballoon model='virtio'>
  12       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  13     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  11     <console type='pty' tty='/dev/pts/4'>
  12       <source path='/dev/pts/4'/>
  13       <alias name='serial0'/>
  14     </console>
  16       <alias name='balloon0'/>


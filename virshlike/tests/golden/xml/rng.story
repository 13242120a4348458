== warnings


== refused at start
rng.xml:19:23: error: model='egd' of <backend>: entropy daemons are not asked yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  14       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  18       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  24       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  26     <memballoon model='virtio'>
  27       <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
  28     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  19       <alias name='rng1'/>
  26       <alias name='rng2'/>
  30       <alias name='balloon0'/>


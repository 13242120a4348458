== warnings
interface.xml:19:21: warning: name='vhost' of <driver> has no effect: frames are carried by the guest's own process
interface.xml:22:7: warning: <bandwidth> has no effect: bandwidth limits are not built yet

== refused at start
interface.xml:18:20: error: type='e1000' of <model>: only virtio is built; start with --map-to-virtio or say type='virtio'

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  11       <mac address='52:54:00:80:fe:d3'/>
  14       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  28     <interface type='user'>
  29       <mac address='52:54:00:6a:4b:5b'/>
  30       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  31     </interface>
  32     <memballoon model='virtio'>
  33       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  34     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  15       <target dev='vnet0'/>
  16       <alias name='net0'/>
  30       <alias name='net1'/>
  34       <alias name='net2'/>
  38       <alias name='balloon0'/>


== warnings


== refused at start
interface.xml:10:5: error: <interface>: network interfaces are not built yet
interface.xml:14:5: error: <interface>: network interfaces are not built yet
interface.xml:26:5: error: <interface>: network interfaces are not built yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  11       <mac address='52:54:00:80:fe:d3'/>
  14       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  28     <interface type='user'>
  29       <mac address='52:54:00:6a:4b:5b'/>
  30       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  31     </interface>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  14       <target dev='vnet0'/>
  15       <alias name='net0'/>
  29       <alias name='net1'/>
  33       <alias name='net2'/>


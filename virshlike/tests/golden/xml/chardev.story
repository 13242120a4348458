== warnings
chardev.xml:29:5: warning: <parallel> has no effect: there is no parallel port
chardev.xml:30:5: warning: <redirdev> has no effect: there is no USB redirection

== refused at start
chardev.xml:19:19: error: type='tcp' of <serial>: only a pty can be behind it so far

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  28       <address type='virtio-serial' controller='0' bus='0' port='1'/>
  32     <controller type='virtio-serial' index='0'>
  33       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  34     </controller>
  35     <memballoon model='virtio'>
  36       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  37     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  12       <source path='/dev/pts/4'/>
  16       <alias name='serial0'/>
  21       <alias name='serial1'/>
  26       <alias name='serial2'/>
  28     <console type='pty' tty='/dev/pts/4'>
  29       <source path='/dev/pts/4'/>
  31       <alias name='serial0'/>
  35       <alias name='channel0'/>
  41       <alias name='virtio-serial0'/>
  45       <alias name='balloon0'/>


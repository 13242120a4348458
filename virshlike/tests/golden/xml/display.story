== warnings
display.xml:10:31: warning: bus='usb' of <input> has no effect: there is no USB; viewers reach virtio devices
display.xml:16:21: warning: type='spice' of <graphics> has no effect: there is no SPICE; use type='vnc'
display.xml:17:5: warning: <sound> has no effect: there is no sound

== refused at start


== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  12     <input type='mouse' bus='virtio'>
  13       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  14     </input>
  23       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  25     <input type='keyboard' bus='virtio'>
  26       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  27     </input>
  28     <memballoon model='virtio'>
  29       <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
  30     </memballoon>

== differs in dumpxml
  15     <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  11     <input type='tablet' bus='usb'>
  12       <alias name='input0'/>
  13     </input>
  14     <input type='keyboard' bus='ps2'>
  15       <alias name='input1'/>
  16     </input>
  17     <input type='mouse' bus='virtio'>
  18       <alias name='input2'/>
  19       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  20     </input>
  21     <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>
  22       <listen type='address' address='127.0.0.1'/>
  23     </graphics>
  24     <graphics type='spice' autoport='yes'/>
  25     <sound model='ich9'/>
  26     <audio id='1' type='none'/>
  27     <video>
  28       <model type='virtio' heads='1' primary='yes'/>
  29       <alias name='video0'/>
  30       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  31     </video>
  32     <input type='keyboard' bus='virtio'>
  33       <alias name='input3'/>
  34       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  35     </input>
  36     <memballoon model='virtio'>
  37       <alias name='balloon0'/>
  38       <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
  39     </memballoon>
  40   </devices>
  41 </domain>


== warnings
display.xml:10:18: warning: type='tablet' of <input> has no effect: without a display there is nothing to point at
display.xml:10:31: warning: bus='usb' of <input> has no effect: there is no USB
display.xml:16:21: warning: type='spice' of <graphics> has no effect: there is no SPICE; use type='vnc'
display.xml:17:5: warning: <sound> has no effect: there is no sound

== refused at start
display.xml:12:30: error: bus='virtio' of <input>: virtio input is not built yet
display.xml:13:21: error: type='vnc' of <graphics>: VNC is not built yet
display.xml:20:20: error: type='virtio' of <model>: video cards are not built yet; use the serial console and type='none'

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== differs in dumpxml
  13     <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>

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
  19     </input>
  20     <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>
  21       <listen type='address' address='127.0.0.1'/>
  22     </graphics>
  23     <graphics type='spice' autoport='yes'/>
  24     <sound model='ich9'/>
  25     <audio id='1' type='none'/>
  26     <video>
  27       <model type='virtio' heads='1' primary='yes'/>
  28       <alias name='video0'/>
  29     </video>
  30   </devices>
  31 </domain>


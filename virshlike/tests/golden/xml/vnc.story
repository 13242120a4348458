== warnings
vnc.xml:13:5: warning: VNC looks at the first 8 bytes of passwd only
vnc.xml:13:5: warning: powerControl='yes' of <graphics> has no effect: viewers have no power button
vnc.xml:13:63: warning: keymap='de' of <graphics> has no effect: keys come by their place where the viewer can tell it, else by an American layout
vnc.xml:18:5: warning: whoever reaches this host can use the display: it listens on more than the loopback address and has no passwd
vnc.xml:20:7: warning: heads= of <model> has no effect: the card has one output
vnc.xml:20:20: warning: type='qxl' of <model> has no effect: the guest gets a virtio card
vnc.xml:23:7: warning: accel3d='yes' of <acceleration> has no effect: nothing is rendered on the host

== refused at start
vnc.xml:16:7: error: listening on the address of a virtual network is not built yet
  hint: write <listen type='address' address='127.0.0.1'/>
vnc.xml:18:5: error: a second VNC server is not built yet
  hint: give the one several <listen> elements
vnc.xml:22:5: error: a second video card is not built yet
  hint: remove it
vnc.xml:28:5: error: a second video card is not built yet
  hint: remove it
vnc.xml:29:20: error: type='ramfb' of <model>: this card is not built; use type='virtio'

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  11     <controller type='pci' index='1' model='pcie-root-port'>
  12       <target chassis='1' port='0x8'/>
  13       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  14     </controller>
  15     <input type='tablet' bus='virtio'>
  16       <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
  17     </input>
  18     <graphics type='vnc' port='5907' websocket='5700' keymap='de' passwd='longer than eight' passwdValidTo='2030-12-31T23:59:59' sharePolicy='force-shared' powerControl='yes'>
  19       <listen type='address' address='0.0.0.0'/>
  20       <listen type='socket'/>
  21       <listen type='network' network='default'/>
  22     </graphics>
  23     <graphics type='vnc' listen='::'/>
  24     <video>
  25       <model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='2'/>
  26       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  27     </video>
  28     <video>
  29       <model type='virtio' vram='32768'>
  30         <acceleration accel3d='yes'/>
  31         <resolution x='1024' y='768'/>
  32       </model>
  33       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  34     </video>
  35     <video>
  36       <model type='ramfb'/>
  37     </video>
  38     <input type='keyboard' bus='virtio'>
  39       <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
  40     </input>
  41     <memballoon model='virtio'>
  42       <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
  43     </memballoon>
  44   </devices>
  45 </domain>

== differs in dumpxml
  18     <graphics type='vnc' port='5907' websocket='5700' keymap='de' passwdValidTo='2030-12-31T23:59:59' sharePolicy='force-shared' powerControl='yes'>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  11     <controller type='pci' index='0' model='pcie-root'>
  12       <alias name='pcie.0'/>
  13     </controller>
  16       <alias name='pci.1'/>
  20       <alias name='input0'/>
  31       <alias name='video0'/>
  39       <alias name='video1'/>
  44       <alias name='video2'/>
  47       <alias name='input1'/>
  51       <alias name='balloon0'/>


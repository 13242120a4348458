== warnings
controller.xml:17:23: warning: type='usb' of <controller> has no effect: there is no USB

== refused at start
controller.xml:16:35: error: model='pcie-to-pci-bridge' of <controller>: only root ports are built
controller.xml:19:23: error: type='scsi' of <controller>: SCSI is not built yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>
  11     <controller type='pci' model='pcie-root-port' index='1'>
  12       <target chassis='1' port='0x8'/>
  13       <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
  14     </controller>
  17       <target chassis='9' port='0x10'/>
  18       <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
  22     <controller type='virtio-serial' index='0'>
  23       <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
  24     </controller>
  28       <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
  30     <memballoon model='virtio'>
  31       <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
  32     </memballoon>

== shown of a running domain
   1 <domain type='kvm' id='3'>
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  11     <controller type='pci' index='0' model='pcie-root'>
  12       <alias name='pcie.0'/>
  13     </controller>
  16       <alias name='pci.1'/>
  22       <alias name='pci.5'/>
  25     <controller type='pci' model='pcie-to-pci-bridge' index='6'>
  26       <alias name='pci.6'/>
  27     </controller>
  30       <alias name='virtio-serial0'/>
  36       <alias name='rng0'/>
  40       <alias name='balloon0'/>


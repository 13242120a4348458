== warnings
devices.xml:10:5: warning: <emulator> /usr/bin/qemu-system-x86_64 has no effect: our own vmm runs every domain
devices.xml:21:5: warning: <hub> has no effect: there is no USB
devices.xml:25:5: warning: <watchdog> has no effect: there is no watchdog

== refused at start
devices.xml:11:5: error: <filesystem>: shared directories are not built yet
devices.xml:16:5: error: <hostdev>: devices of the host are not passed through yet
devices.xml:22:5: error: <tpm>: TPMs are not built yet
devices.xml:28:19: error: model='pvpanic' of <panic>: the panic device on PCI is not built yet; say model='isa'
devices.xml:29:5: error: <shmem>: shared memory devices are not built yet
devices.xml:32:5: error: <memory>: memory devices are not built yet
devices.xml:38:5: error: <iommu>: a virtual IOMMU is not built yet
devices.xml:39:5: error: <vsock>: vsock is not built yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  26     <memballoon model='none'>
  27       <alias name='balloon0'/>
  28     </memballoon>
  29     <panic model='isa'>
  30       <alias name='panic0'/>
  31     </panic>
  32     <panic model='pvpanic'/>
  33     <shmem name='shared'>
  34       <size unit='MiB'>4</size>
  35     </shmem>
  36     <memory model='dimm'>
  37       <target>
  38         <size unit='MiB'>64</size>
  39         <node>0</node>
  40       </target>
  41     </memory>
  42     <iommu model='intel'/>
  43     <vsock model='virtio'>
  44       <cid auto='yes'/>
  45     </vsock>
  46   </devices>
  47 </domain>


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
   9   <cpu mode='host-passthrough' check='none' migratable='on'/>
  27     <memballoon model='none'>
  28       <alias name='balloon0'/>
  29     </memballoon>
  30     <panic model='isa'>
  31       <alias name='panic0'/>
  32     </panic>
  33     <panic model='pvpanic'/>
  34     <shmem name='shared'>
  35       <size unit='MiB'>4</size>
  36     </shmem>
  37     <memory model='dimm'>
  38       <target>
  39         <size unit='MiB'>64</size>
  40         <node>0</node>
  41       </target>
  42     </memory>
  43     <iommu model='intel'/>
  44     <vsock model='virtio'>
  45       <cid auto='yes'/>
  46     </vsock>
  47   </devices>
  48 </domain>


== warnings
features.xml:12:5: warning: <pae> has no effect: every 64-bit CPU has it
features.xml:13:5: warning: <hyperv> has no effect: there are no Hyper-V enlightenments
features.xml:22:18: warning: name='rtc' of <timer> has no effect: lost ticks are not caught up
features.xml:31:31: warning: enabled='yes' of <suspend-to-disk> has no effect: the guest is offered no sleep states

== refused at start
features.xml:16:5: error: <kvm>: what KVM tells the guest cannot be chosen yet
features.xml:24:18: error: name='tsc' of <timer>: the TSC cannot be configured yet

== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  33   <cpu mode='host-passthrough' check='none' migratable='on'/>


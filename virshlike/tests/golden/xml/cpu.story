== warnings
cpu.xml:5:36: warning: cpuset='0-3,^2' of <vcpu> has no effect: pinning is not built yet
cpu.xml:6:3: warning: <iothreads> has no effect: each disk has a worker of its own
cpu.xml:7:3: warning: <cputune> has no effect: CPU tuning is not built yet

== refused at start


== added to the definition
  11     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>


== warnings
memory.xml:18:43: warning: threads='2' of <allocation> has no effect: the number of threads is ours to choose
memory.xml:19:5: warning: <discard> has no effect: RAM is given back when the process ends

== refused at start


== added to the definition
  28     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  31   <cpu mode='host-passthrough' check='none' migratable='on'/>


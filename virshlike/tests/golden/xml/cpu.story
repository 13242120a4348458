== warnings


== refused at start


== added to the definition
  11     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>


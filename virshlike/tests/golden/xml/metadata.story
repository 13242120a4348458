== warnings
metadata.xml:15:3: warning: <other:thing> has no effect: it belongs to the namespace 'urn:other', which means nothing here
metadata.xml:16:19: warning: type='dynamic' of <seclabel> has no effect: nobody's files are relabelled here
metadata.xml:18:3: warning: <resource> has no effect: each guest has a scope of its own

== refused at start


== added to the definition
   6     <type arch='x86_64' machine='vm-q35-1'>hvm</type>

== shown of a running domain
   1 <domain type='kvm' id='3'>
  15   <cpu mode='host-passthrough' check='none' migratable='on'/>


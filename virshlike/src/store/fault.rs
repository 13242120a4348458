//! Named places at which a test may kill the process, between the steps of every change on disk.
//!
//! With `VM_FAULT=NAME` in the environment of a debug build the process aborts when it reaches the
//! point NAME, as a power cut or `kill -9` would end it there. Release builds have no such points.

/// Every point, in the order in which the verbs reach them. Tests walk this list.
pub const POINTS: &[&str] = &[
    "atomic.temp-created",
    "atomic.temp-written",
    "atomic.temp-synced",
    "atomic.renamed",
    "atomic.dir-synced",
    "undefine.definition-gone",
    "undefine.autostart-gone",
    "undefine.remains-gone",
    "rename.intent-written",
    "rename.new-written",
    "rename.old-gone",
    "rename.moved",
    "rename.intent-gone",
    "net-start.recorded",
    "net-start.bridge-made",
    "net-start.rules-made",
    "net-start.served",
    "net-destroy.recorded",
    "net-destroy.server-gone",
    "net-destroy.rules-gone",
    "net-destroy.bridge-gone",
];

/// Marks a point; ends the process there when the environment asks for it.
pub fn point(name: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    debug_assert!(POINTS.contains(&name), "fault point {name} is not listed");
    if std::env::var_os("VM_FAULT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

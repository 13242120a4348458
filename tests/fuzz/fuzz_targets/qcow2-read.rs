//! The body `qcow2-read` for cargo-fuzz.
#![no_main]
#![deny(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("qcow2-read", bytes));

//! The body `virtio-console` for cargo-fuzz.
#![no_main]
#![deny(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("virtio-console", bytes));

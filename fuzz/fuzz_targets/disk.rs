//! What is read back from a disk beside logs: `posthaste::probe` says by whom, their `probe.rs` what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("disk")(octets));

//! A file for the suppression list: `src/suppression/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("import")(octets));

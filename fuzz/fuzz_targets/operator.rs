//! What operators and programs of this host write: `posthaste::probe` says who reads it, their `probe.rs` what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("operator")(octets));

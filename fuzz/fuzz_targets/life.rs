//! What may happen to a log: `src/log/probe/life.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("life")(octets));

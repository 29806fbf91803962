//! A request to unsubscribe: `src/inbound/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("unsubscribe")(octets));

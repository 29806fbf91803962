//! What came back: `src/feedback/probe.rs` or below says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("dmarc")(octets));

//! The JSON of a submission, prepared: `src/submission/http/probe.rs` or below says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("submission")(octets));

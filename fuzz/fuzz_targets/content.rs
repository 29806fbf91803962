//! Content behind DATA and BDAT: `src/submission/smtp/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("content")(octets));

//! What a client may show as its secret: `src/access/probe.rs` or below says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("token")(octets));

//! What a SOCKS5 proxy answers: `src/delivery/probe.rs` or below says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("socks")(octets));

//! A dialogue with a relay that wants a password, or offers TLS: `src/delivery/probe/relay.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("receiver_auth")(octets));

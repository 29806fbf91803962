//! Who a client of an API says it is: `src/submission/web/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("identity")(octets));

//! A recipient at the listener for what comes back: `src/inbound/probe.rs` or below says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("mailbox")(octets));

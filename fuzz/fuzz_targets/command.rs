//! One command line of an SMTP client: `src/submission/smtp/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("command")(octets));

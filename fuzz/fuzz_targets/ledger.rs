//! The head of a record of the ledger: `src/ledger/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("ledger")(octets));

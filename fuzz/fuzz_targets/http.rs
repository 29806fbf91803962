//! What an HTTP client says beside the JSON of a submission: `src/submission/http/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("http")(octets));

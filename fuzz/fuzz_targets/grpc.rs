//! What a gRPC client sends: `src/submission/grpc/probe.rs` says what is checked.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| posthaste::probe::target("grpc")(octets));

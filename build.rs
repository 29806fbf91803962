//! Makes Rust of `proto/`: messages, server and client, and the descriptors that reflection serves. Needs no protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 5] = [
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "posthaste/v1/events.proto",
    "posthaste/v1/submission.proto",
    "posthaste/v1/suppressions.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Content is shared with the buffer it came in, not copied.
        .bytes(".")
        .include_file("proto.rs")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

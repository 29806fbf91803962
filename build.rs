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

/// The messages that lines of the event log are read into.
const OF_LINES: [&str; 3] = ["Event", "Tls", "Timings"];

/// Fields of them that have another name in the log, or another form. What reads them is in `src/submission/grpc/line.rs`.
const FIELDS: [(&str, &str); 14] = [
    ("Event.time", "deserialize_with = \"crate::submission::grpc::line::time\""),
    ("Event.accepted_at", "deserialize_with = \"crate::submission::grpc::line::time\""),
    ("Event.next_attempt", "deserialize_with = \"crate::submission::grpc::line::time\""),
    ("Event.until", "deserialize_with = \"crate::submission::grpc::line::time\""),
    ("Event.kind", "rename = \"event\", deserialize_with = \"crate::submission::grpc::line::kind_number\""),
    ("Event.class", "deserialize_with = \"crate::submission::grpc::line::class_number\""),
    ("Event.enhanced_code", "rename = \"enhanced\""),
    ("Event.timings", "rename = \"timings_ms\""),
    ("Timings.queue_ms", "rename = \"queue\""),
    ("Timings.connect_ms", "rename = \"connect\""),
    ("Timings.tls_ms", "rename = \"tls\""),
    ("Timings.envelope_ms", "rename = \"envelope\""),
    ("Timings.data_ms", "rename = \"data\""),
    ("Timings.reply_ms", "rename = \"reply\""),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure();
    for message in OF_LINES {
        let path = format!("posthaste.v1.{message}");
        builder = builder.message_attribute(path, "#[derive(serde::Deserialize)] #[serde(default)]");
    }
    for (field, form) in FIELDS {
        builder = builder.field_attribute(format!("posthaste.v1.{field}"), format!("#[serde({form})]"));
    }
    builder
        // Content is shared with the buffer it came in, not copied.
        .bytes(".")
        .include_file("proto.rs")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

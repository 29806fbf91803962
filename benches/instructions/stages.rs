//! One stage of the path of a message, so many times, without disk and sockets: for `run` beside this file, which has the
//! instructions counted.
//!
//!     instructions STAGE MESSAGES

#[path = "../message.rs"]
mod message;

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{ByteSize, DkimConfig, SpoolConfig};
use posthaste::log::probe::MemoryFiles;
use posthaste::signing::Signer;
use posthaste::signing::keygen::{self, KeyAlgorithm};
use posthaste::spool::{Change, End, Message, Outlets, RecipientState, Spool, Update};
use posthaste::telemetry::Metrics;
use posthaste::{delivery, queue, submission};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo calls every benchmark with options of its own; this one is not for it.
    let [stage, messages] = &arguments[..] else { return };
    let messages: usize = messages.parse().expect("a number of messages");
    let content = message::content();
    let done = match stage.as_str() {
        "accept" => submission::probe::submit(messages, &[&content[..], b".\r\n"].concat()),
        "spool" => spool(messages, content.into()),
        "schedule" => queue::probe::pass_through(messages),
        "sign" => sign(messages, &content),
        "deliver" => delivery::probe::deliver(messages, &content.into()),
        _ => panic!("no stage {stage}"),
    };
    assert_eq!(done, messages);
}

/// Each is written and synced, then its delivery is recorded; into memory, one at a time, so that the log's thread makes
/// the same batches every time.
fn spool(messages: usize, content: Bytes) -> usize {
    let config = SpoolConfig { disk_free_min: ByteSize(0), ..SpoolConfig::default() };
    let (files, metrics) = (Arc::new(MemoryFiles::default()), Arc::new(Metrics::new()));
    let (exported, record_done) = mpsc::channel();
    let export = Arc::new(move |_, _: Bytes| exported.send(()).expect("somebody waits"));
    let outlets = Outlets { exported: None, export, ledger: Arc::default() };
    let opened = Spool::open(Path::new("/spool"), &config, files, metrics, outlets, Clock);
    let spool = opened.expect("memory does not fail").0;
    let (done, accepted) = mpsc::channel();
    for _ in 0..messages {
        let id = spool.next_id(Timestamp(1_795_348_800_000));
        let done = done.clone();
        let message = Arc::new(Message::new(id, message::envelope(), content.clone()));
        spool.accept([message], move |result| done.send(result.is_ok()).expect("somebody waits"));
        assert!(accepted.recv().expect("an answer"));
        let changes = vec![Change { recipient: 0, state: RecipientState::Ended(End::Delivered) }];
        let events = Bytes::from_static(b"{\"event\":\"delivered\"}\n");
        let update = Update { id, changes, finished: true, events, signature: None, reports: Vec::new(), synced: None };
        spool.record(update, |_| {});
        record_done.recv().expect("the event is handed on");
    }
    spool.close();
    messages
}

/// Ed25519, since how RSA is computed depends on the processor, and takes most of the time.
fn sign(messages: usize, content: &[u8]) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    let key_file = folder.path().join("key.pem");
    keygen::write_private(&key_file, &keygen::generate(KeyAlgorithm::Ed25519).expect("a key").private_pem)
        .expect("written");
    let domain = "us.example".parse().expect("a domain");
    let (signer, problems) = Signer::load(&[DkimConfig { domain, selector: "s1".into(), key_file }]);
    assert!(problems.is_empty(), "{problems:?}");
    let signed = (0..messages).map(|_| black_box(signer.sign(content, Timestamp(1_795_348_800_000)).expect("signed")));
    signed.filter(|signature| !signature.is_empty()).count()
}

//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use super::codec::{Reader, Writer, read_envelope, read_failure, write_envelope, write_failure};
use super::state;
use crate::mail::Envelope;

/// The head of a `MESSAGE` record: what can be read is written so that it reads the same.
pub fn envelope(octets: &[u8]) {
    let Ok(envelope) = read_envelope(&mut Reader(octets)) else { return };
    let written = encode(&envelope);
    assert_eq!(read_envelope(&mut Reader(&written)), Ok(envelope));
    for len in 0..written.len() {
        assert!(read_envelope(&mut Reader(&written[..len])).is_err(), "cut to {len}, it reads");
    }
}

/// The head of a `STATE` record, and a failure by itself: as above.
pub fn state(octets: &[u8]) {
    if let Ok(record) = state::read(octets) {
        let written = state::write(&record.changes, record.grave, record.taken_back, record.events);
        assert_eq!(state::read(&written), Ok(record));
        let copied = state::without_events(octets);
        let copy = state::read(&copied).expect("the copy reads");
        assert!(copy.events.is_empty());
    }
    if let Ok(failure) = read_failure(&mut Reader(octets)) {
        let mut w = Writer::default();
        write_failure(&mut w, &failure);
        assert_eq!(read_failure(&mut Reader(&w.0)), Ok(failure));
    }
}

/// For benchmarks and seeds: an envelope as it stands on disk.
pub fn encode(envelope: &Envelope) -> Vec<u8> {
    let mut w = Writer::default();
    write_envelope(&mut w, envelope);
    w.0
}

/// For benchmarks: reads it back; `None` if it cannot be read.
pub fn decode(octets: &[u8]) -> Option<Envelope> {
    read_envelope(&mut Reader(octets)).ok()
}

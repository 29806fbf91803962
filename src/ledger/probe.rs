//! Ways in for fuzz targets; see [`crate::probe`].

use super::codec::{BatchHead, RunHead, read_facts, write_facts};

/// The head of any record of the ledger's logs: what can be read is written so that it reads the same.
pub fn record(octets: &[u8]) {
    if let Ok(batch) = BatchHead::read(octets) {
        assert_eq!(batch.write(), octets);
    }
    if let Ok(run) = RunHead::read(octets) {
        assert_eq!(run.write(), octets);
    }
    if let Ok(facts) = read_facts(octets) {
        assert_eq!(write_facts(&facts), octets);
    }
}

//! Ways in for fuzz targets; see [`crate::probe`].

use super::codec::{BatchHead, RunHead, read_facts, write_facts};

/// The head of any record of the ledger's logs: what can be read is written so that it reads the same, whatever version
/// it was.
pub fn record(octets: &[u8]) {
    if let Ok(batch) = BatchHead::read(octets) {
        assert_eq!(BatchHead::read(&batch.write()), Ok(batch));
    }
    if let Ok(run) = RunHead::read(octets) {
        assert_eq!(RunHead::read(&run.write()), Ok(run));
    }
    if let Ok(facts) = read_facts(octets) {
        assert_eq!(write_facts(&facts), octets);
    }
}

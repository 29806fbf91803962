//! The ledger as a whole.

use std::time::Duration;

use super::*;
use crate::log::DiskFiles;
use crate::mail::{Fingerprint, MessageId};

fn open(dir: &Path) -> (Ledger, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let opened = Ledger::open(dir, &LedgerConfig::default(), Arc::new(DiskFiles), Arc::clone(&metrics), Clock);
    (opened.unwrap(), metrics)
}

#[tokio::test]
async fn remembers_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = open(dir.path());
    ledger.put(Table::Tenants, vec![(b"shop".to_vec(), Some(Bytes::from_static(b"{}")))]).await.unwrap();
    let now = Clock.timestamp();
    let keyed = Keyed::new("order-1".parse().unwrap(), Fingerprint([1; 16]), 3);
    let receipt = Receipt { id: MessageId(9), messages: 3, accepted_at: now, replayed: false };
    let at = Position { segment: SegmentId(4), offset: 4096 };
    ledger.record("shop", &keyed, receipt, now.after(Duration::from_secs(60)), at);
    assert_eq!(ledger.receipt("shop", "order-1").unwrap(), Some(receipt));
    ledger.close();
    ledger.close();
    assert!(ledger.put(Table::Tenants, vec![(b"late".to_vec(), None)]).await.is_err());
    let mut kinds = Vec::new();
    let report = verify(dir.path(), &mut |_, kind| kinds.push(kind.unwrap())).unwrap();
    assert_eq!((kinds, report.damaged), (vec!["batch of receipts", "facts"], vec![]));
    let (ledger, metrics) = open(dir.path());
    assert_eq!(ledger.get(Table::Tenants, b"shop").unwrap().as_deref(), Some(&b"{}"[..]));
    assert_eq!(ledger.receipt("shop", "order-1").unwrap(), Some(receipt));
    assert_eq!((ledger.recorded(), ledger.unrecorded()), (Some(at), None));
    assert_eq!(metrics.ledger_rebuilt.get(), 0);
}

#[tokio::test]
async fn in_memory_for_tests() {
    let ledger = Ledger::default();
    ledger.put(Table::Usage, vec![(b"shop".to_vec(), Some(Bytes::from_static(b"1")))]).await.unwrap();
    assert_eq!(ledger.scan(Table::Usage, b"s").unwrap(), [(b"shop".to_vec(), Bytes::from_static(b"1"))]);
    ledger.put(Table::Usage, vec![(b"shop".to_vec(), None)]).await.unwrap();
    assert_eq!(ledger.get(Table::Usage, b"shop").unwrap(), None);
}

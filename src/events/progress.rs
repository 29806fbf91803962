//! How far the event log is with what it was handed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Shared by its clones: the event log, and whoever waits for it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Groups of lines handed over since the start.
    handed: AtomicU64,
    /// Of those, how many are in the file for everybody to read.
    written: watch::Sender<u64>,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress(Arc::new(Counts { handed: AtomicU64::new(0), written: watch::Sender::new(0) }))
    }

    /// One more group. Call it before the group can be written.
    pub(super) fn handed(&self) {
        self.0.handed.fetch_add(1, Ordering::Release);
    }

    /// So many more are in the file.
    pub(super) fn written(&self, groups: u64) {
        self.0.written.send_modify(|written| *written = written.saturating_add(groups));
    }

    /// Nothing more will be written.
    pub(super) fn ends(&self) {
        self.0.written.send_replace(u64::MAX);
    }

    /// Until all that was handed over before this call can be read in the files, or the log is closed. As long as the disk
    /// is full, that does not come.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn caught_up(&self) {
        let handed = self.0.handed.load(Ordering::Acquire);
        // Fails only when the sender is gone, and we hold it.
        let _ = self.0.written.subscribe().wait_for(|written| *written >= handed).await;
    }
}

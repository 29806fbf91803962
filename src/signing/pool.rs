//! Signing off the reactor.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Added, Signer, SigningError};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::Metrics;

/// Makes signatures on the runtime's blocking threads, a bounded number at once. The rest wait in order of arrival; each
/// waiter is a caller that awaits, so there are never more than there are callers.
#[derive(Debug)]
pub struct SigningPool {
    turns: Arc<Semaphore>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl SigningPool {
    /// A pool that makes at most `at_once` signatures at the same time; the number of cores is right, since they only
    /// compute. At least one.
    pub fn new(at_once: usize, clock: Clock, metrics: Arc<Metrics>) -> SigningPool {
        SigningPool { turns: Arc::new(Semaphore::new(at_once.max(1))), clock, metrics }
    }

    /// [`Signer::sign`] on another thread; at once, without a thread, if the signer has no key for the author's domain.
    /// `metrics.signing` gets the time spent computing, without the wait; `metrics.signing_failures` counts errors.
    ///
    /// # Errors
    /// Those of [`Signer::sign`], and [`SigningError::Dropped`] when the runtime shuts down.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the turn; a signature being computed then is finished and thrown away, and its turn
    /// passes on only after that.
    pub async fn sign(&self, signer: Arc<Signer>, content: Bytes, now: Timestamp) -> Result<Bytes, SigningError> {
        self.sign_with(signer, Added::default(), content, now).await
    }

    /// [`Signer::sign_with`], likewise.
    ///
    /// # Errors
    /// As for [`sign`](SigningPool::sign).
    ///
    /// # Cancel safety
    /// As for [`sign`](SigningPool::sign).
    pub async fn sign_with(
        &self,
        signer: Arc<Signer>,
        added: Added,
        content: Bytes,
        now: Timestamp,
    ) -> Result<Bytes, SigningError> {
        if !signer.applies(&content) {
            return Ok(Bytes::new());
        }
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| SigningError::Dropped)?;
        let clock = self.clock;
        let metrics = Arc::clone(&self.metrics);
        let signed = tokio::task::spawn_blocking(move || {
            let started = clock.instant();
            let signed = signer.sign_with(&added, &content, now);
            metrics.signing.observe(clock.instant().duration_since(started).as_secs_f64());
            drop(turn);
            signed
        })
        .await
        .unwrap_or(Err(SigningError::Dropped));
        if signed.is_err() {
            self.metrics.signing_failures.inc();
        }
        signed
    }
}

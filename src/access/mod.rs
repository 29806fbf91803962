//! Who may submit, for which tenant, what, and how much.
//!
//! A listener learns who its client is ([`Principal`]): by the network it comes from, by a token or password, by a client
//! certificate, or by its user on this machine. The gate then asks [`Access::authorise`] whether that principal may submit
//! this message, and [`Access::charge`] whether its tenant's quotas have room.
//!
//! Tenants and their credentials are kept in the ledger; secrets only as hashes.

mod scram;
mod tenant;

pub use scram::Scram;
pub use tenant::{Quota, Tenant};

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError};
use crate::mail::Envelope;
use crate::telemetry::Metrics;

/// A client we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// On whose behalf it submits; `None`: it is trusted and may name any tenant, or none.
    pub tenant: Option<Arc<Tenant>>,
    /// How we know.
    pub how: How,
}

/// How a client showed who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It comes from one of `trusted_networks`.
    Network,
    /// It is one of `trusted_users` on this machine (SO_PEERCRED).
    User(u32),
    /// A credential of that id.
    Credential(Arc<str>),
    /// A client certificate that names this.
    Certificate(Arc<str>),
}

impl Principal {
    /// A client from a trusted network.
    pub fn network() -> Arc<Principal> {
        Arc::new(Principal { tenant: None, how: How::Network })
    }

    /// A trusted user on this machine.
    pub fn user(id: u32) -> Arc<Principal> {
        Arc::new(Principal { tenant: None, how: How::User(id) })
    }
}

/// Why a client is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Name or secret is wrong, or the credential is gone; which, is not told.
    #[error("authentication failed")]
    Unauthenticated,
    /// The tenant may not do that.
    #[error("{field}: {why}")]
    Forbidden {
        /// The field of the submission to blame: `class`, `tenant`, `from`, `reverse_path`.
        field: &'static str,
        /// What is wrong and what would be right.
        why: Cow<'static, str>,
    },
    /// The tenant has used up what it may.
    #[error("{why}")]
    Quota {
        /// Which quota, in a sentence.
        why: Cow<'static, str>,
        /// When there will be room; `None`: not known.
        retry_after: Option<Duration>,
    },
}

/// Who may submit.
#[derive(Debug)]
pub struct Access {}

impl Access {
    /// Reads all tenants. May read from disk.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn open(ledger: Arc<Ledger>, metrics: Arc<Metrics>, clock: Clock) -> Result<Arc<Access>, LedgerError> {
        let _ = (ledger, metrics, clock);
        Ok(Arc::new(Access {}))
    }

    /// Who has that API token (`Authorization: Bearer`). Wrong ones are answered late, later each time.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    ///
    /// # Cancel safety
    /// Safe; a failure has been counted before its delay begins.
    pub async fn by_token(&self, token: &str, client: Option<IpAddr>) -> Result<Arc<Principal>, AccessError> {
        let _ = (token, client);
        Err(AccessError::Unauthenticated)
    }

    /// Who has that name and password (AUTH PLAIN and LOGIN, HTTP Basic): the name of the tenant or the id of the
    /// credential, and the token. Wrong ones are answered late, later each time.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    ///
    /// # Cancel safety
    /// Safe; a failure has been counted before its delay begins.
    pub async fn by_password(
        &self,
        user: &str,
        password: &str,
        client: Option<IpAddr>,
    ) -> Result<Arc<Principal>, AccessError> {
        let _ = (user, password, client);
        Err(AccessError::Unauthenticated)
    }

    /// The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) for that user, a tenant's name or a credential's id. Users
    /// that do not exist have a salt as well, and a proof that never fits.
    pub fn scram(&self, user: &str) -> Scram {
        let _ = user;
        Scram { salt: vec![0; 16], iterations: 4096 }
    }

    /// The tenant that one of these names in a verified client certificate stands for.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    pub fn by_certificate(&self, names: &[String]) -> Result<Arc<Principal>, AccessError> {
        let _ = names;
        Err(AccessError::Unauthenticated)
    }

    /// Whether `principal` may submit this; sets the tenant of the envelope's stream if it is left open. Of `content` the
    /// From field is read, where the tenant is bound to some domains.
    ///
    /// # Errors
    /// [`AccessError::Forbidden`]; [`AccessError::Unauthenticated`] if its credential has gone since.
    pub fn authorise(&self, principal: &Principal, envelope: &mut Envelope, content: &[u8]) -> Result<(), AccessError> {
        let _ = (principal, envelope, content);
        Ok(())
    }

    /// Takes room for that many recipients from the quotas of the stream's tenant, if it is registered. What is returned
    /// gives it back unless told to keep it.
    ///
    /// # Errors
    /// [`AccessError::Quota`], or [`AccessError::Forbidden`] if it can never have room; nothing was taken.
    pub fn charge(&self, tenant: &str, recipients: usize) -> Result<Charge, AccessError> {
        let _ = (tenant, recipients);
        Ok(Charge {})
    }

    /// Whom to ask how many recipients of a tenant wait in the queue. Set once, at wiring.
    pub fn count_waiting_by(&self, count: Box<dyn Fn(&str) -> u64 + Send + Sync>) {
        let _ = count;
    }
}

/// Room taken from quotas. Dropped, it is given back.
#[derive(Debug)]
#[must_use = "dropped, the room is given back"]
pub struct Charge {}

impl Charge {
    /// The recipients are in the queue now.
    pub fn keep(self) {}
}

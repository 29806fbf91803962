//! Who may submit, for which tenant, what, and how much.
//!
//! A listener learns who its client is ([`Principal`]): by the network it comes from, by a token or password, by a client
//! certificate, or by its user on this machine. The gate then asks [`Access::authorise`] whether that principal may submit
//! this message, and [`Access::charge`] whether its tenant's quotas have room.
//!
//! Tenants and their credentials are kept in the ledger; secrets only as hashes.
//!
//! (Skeleton: trusted networks only.)

mod tenant;

pub use tenant::{Quota, Tenant};

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::mail::Envelope;

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
    /// Whether what belongs to `tenant` concerns it.
    pub fn may_see(&self, tenant: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own.name == tenant)
    }

    /// A client from a trusted network.
    pub fn network() -> Arc<Principal> {
        Arc::new(Principal { tenant: None, how: How::Network })
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
#[derive(Debug, Default)]
pub struct Access {}

impl Access {
    /// Whether `principal` may submit this; sets the tenant of the envelope's stream if it is left open. Of `content` the
    /// From field is read, where the tenant is bound to some domains.
    ///
    /// # Errors
    /// [`AccessError::Forbidden`].
    pub fn authorise(&self, principal: &Principal, envelope: &mut Envelope, content: &[u8]) -> Result<(), AccessError> {
        let _ = (principal, envelope, content);
        Ok(())
    }

    /// Takes room for that many recipients from the quotas of the principal's tenant.
    ///
    /// # Errors
    /// [`AccessError::Quota`]; nothing was taken.
    pub fn charge(&self, principal: &Principal, recipients: usize) -> Result<(), AccessError> {
        let _ = (principal, recipients);
        Ok(())
    }
}

//! Who may submit, for which tenant, what, and how much.
//!
//! A listener learns who its client is ([`Principal`]): by the network it comes from, by a token or password, by a client
//! certificate, or by its user on this machine. The gate then asks [`Access::authorise`] whether that principal may submit
//! this message, and [`Access::charge`] whether its tenant's quotas have room.
//!
//! Tenants and their credentials are kept in the ledger; secrets only as hashes. They are cached as a whole (`directory`)
//! and change while we run (`edit`).
//!
//! | a client shows | it is checked by |
//! |---|---|
//! | a `token`, as such or as a password | `verifier`: argon2id, then a cache |
//! | a proof of the same token | `scram` |
//! | a certificate | its issuer (the listener does that), and its names |
//!
//! Whoever shows the wrong thing is counted and answered late (`guard`). Then `rules` holds a message against what
//! the tenant may, `author` reading its From, and `meter` counts recipients, per hour and day in a `window`.
//!
//! Trusted clients (networks and local users) belong to no tenant and may name any. Naming a registered one they draw
//! on its quotas, and are refused if it is disabled; what it may write binds only clients that showed its credentials.

mod author;
mod credential;
mod directory;
mod edit;
mod guard;
mod meter;
pub mod probe;
mod rules;
mod scram;
mod tenant;
#[cfg(test)]
mod tests;
mod token;
mod verifier;
mod window;

pub use edit::{ChangeError, CredentialView, Issued, NewCredential, TenantView, Used};
pub use meter::Charge;
pub use scram::Scram;
pub use tenant::{BadField, Quota, Tenant};

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use bytes::Bytes;

use self::credential::SCRAM_ITERATIONS;
use self::directory::{DECOY_KEY, Directory};
use self::guard::{Guard, Mechanism, Why};
use self::scram::ScramKeys;
use self::token::Token;
use self::verifier::Verifier;
use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError, Table};
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
    /// Whether what belongs to `tenant` concerns it.
    pub fn may_see(&self, tenant: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own.name == tenant)
    }

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
        /// The field of the submission to blame: `class`, `tenant`, `from`, `sender`.
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

/// How often what tenants used is written to the ledger: so much of it a crash forgets.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Counts recipients of a tenant that wait in the queue.
type CountWaiting = Box<dyn Fn(&str) -> u64 + Send + Sync>;

/// Who may submit.
pub struct Access {
    ledger: Arc<Ledger>,
    directory: Arc<ArcSwap<Directory>>,
    /// Held while tenants or their counts are written.
    editing: tokio::sync::Mutex<()>,
    verifier: Verifier,
    guard: Arc<Guard>,
    /// Makes salts for users that do not exist.
    decoy: [u8; 32],
    count_waiting: OnceLock<CountWaiting>,
    clock: Clock,
}

impl Access {
    /// Reads all tenants. May read from disk.
    ///
    /// # Errors
    /// The ledger cannot be read. A single tenant that cannot is told of and left out.
    pub fn open(ledger: Arc<Ledger>, metrics: Arc<Metrics>, clock: Clock) -> Result<Arc<Access>, LedgerError> {
        let directory = Arc::new(ArcSwap::from_pointee(Directory::load(&ledger, clock)?));
        let decoy = ledger.get(Table::Tenants, DECOY_KEY.as_bytes())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Access {
            ledger,
            directory,
            editing: tokio::sync::Mutex::default(),
            verifier: Verifier::new(cores, clock),
            guard: Arc::new(Guard::new(metrics, clock)),
            decoy: decoy.and_then(|key| key.as_ref().try_into().ok()).unwrap_or_else(chance),
            count_waiting: OnceLock::new(),
            clock,
        }))
    }

    /// Who has that API token (`Authorization: Bearer`). Wrong ones are answered late, later each time.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    ///
    /// # Cancel safety
    /// Safe; a failure has been counted before its delay begins.
    pub async fn by_token(&self, token: &str, client: Option<IpAddr>) -> Result<Arc<Principal>, AccessError> {
        self.by_secret(Mechanism::Token, token, None, client).await
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
        self.by_secret(Mechanism::Password, password, Some(user), client).await
    }

    async fn by_secret(
        &self,
        mechanism: Mechanism,
        secret: &str,
        user: Option<&str>,
        client: Option<IpAddr>,
    ) -> Result<Arc<Principal>, AccessError> {
        let token = Token::parse(secret);
        let admitted = match token {
            Some(token) => self.admit(token, user).await,
            None => Err(Why::Wrong),
        };
        match admitted {
            Ok(principal) => {
                self.guard.passed(mechanism);
                Ok(principal)
            }
            Err(why) => {
                let directory = self.directory.load_full();
                let who = token.map(Token::id).filter(|id| directory.credential(id).is_some());
                Err(self.guard.failed(mechanism, why, client, who).await)
            }
        }
    }

    /// A credential that does not exist takes the same path as a wrong secret; whether it has expired is looked at only
    /// after the secret was right.
    async fn admit(&self, token: Token<'_>, user: Option<&str>) -> Result<Arc<Principal>, Why> {
        let directory = self.directory.load_full();
        let known = directory.credential(token.id());
        let may_fit = credential::may_fit(token, known.map(|(_, credential)| credential.glimpse));
        let (entry, credential) = known.filter(|_| may_fit).ok_or(Why::Wrong)?;
        if !self.verifier.fits(token, &credential.hash).await {
            return Err(Why::Wrong);
        }
        if user.is_some_and(|user| user != token.id() && user != entry.tenant.name) {
            return Err(Why::Wrong);
        }
        // As it is now: it may have gone while we were checking.
        self.directory.load().principal(token.id(), self.clock.timestamp())
    }

    /// The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) for that user, a tenant's name or a credential's id; the
    /// password is the token. Users that do not exist have a salt as well, and no proof fits.
    pub fn scram(&self, user: &str) -> Scram {
        let directory = self.directory.load();
        let key = |credential: &credential::Credential| (credential.id.as_str().into(), credential.scram.clone());
        let (entry, candidates) = match (directory.tenant(user), directory.credential(user)) {
            (Some(entry), _) => (Some(entry), entry.record.credentials.iter().map(key).collect()),
            (None, Some((entry, credential))) => (Some(entry), vec![key(credential)]),
            (None, None) => (None, Vec::new()),
        };
        let decoy =
            || hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.decoy), user.as_bytes()).as_ref()[..16].into();
        Scram {
            salt: entry.map_or_else(decoy, |entry| entry.record.scram_salt.into()),
            iterations: entry.map_or(SCRAM_ITERATIONS, |entry| entry.record.scram_iterations),
            candidates: if candidates.is_empty() { vec![("".into(), ScramKeys::NONE)] } else { candidates },
            directory: Arc::clone(&self.directory),
            guard: Arc::clone(&self.guard),
            clock: self.clock,
        }
    }

    /// The tenant that one of these names in a verified client certificate stands for.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    pub fn by_certificate(&self, names: &[String]) -> Result<Arc<Principal>, AccessError> {
        let directory = self.directory.load();
        let found = names.iter().find_map(|name| Some((name, directory.certificate(name)?)));
        match found {
            Some((name, entry)) if !entry.tenant.disabled => {
                self.guard.passed(Mechanism::Certificate);
                let tenant = Some(Arc::clone(&entry.tenant));
                Ok(Arc::new(Principal { tenant, how: How::Certificate(name.as_str().into()) }))
            }
            found => {
                let why = if found.is_some() { Why::Disabled } else { Why::Wrong };
                self.guard.certificate_refused(why, names);
                Err(AccessError::Unauthenticated)
            }
        }
    }

    /// Whether a principal is still what it was when it was made: its credential there and not expired, its certificate
    /// known, its tenant enabled. For clients that stay.
    pub fn stands(&self, principal: &Principal) -> bool {
        let directory = self.directory.load();
        let entry = match &principal.how {
            How::Network | How::User(_) => return true,
            How::Credential(id) => directory.good(id, self.clock.timestamp()).ok(),
            How::Certificate(name) => directory.certificate(name),
        };
        let own = principal.tenant.as_ref().map(|tenant| &tenant.name);
        entry.is_some_and(|entry| !entry.tenant.disabled && Some(&entry.tenant.name) == own)
    }

    /// Takes room for that many recipients from the quotas of the stream's tenant, if it is registered. What is returned
    /// gives it back unless told to keep it.
    ///
    /// # Errors
    /// [`AccessError::Quota`], or [`AccessError::Forbidden`] if it can never have room; nothing was taken.
    pub fn charge(&self, tenant: &str, recipients: usize) -> Result<Charge, AccessError> {
        if tenant.is_empty() {
            return Ok(Charge::free());
        }
        let directory = self.directory.load();
        let Some(entry) = directory.tenant(tenant) else { return Ok(Charge::free()) };
        let waiting = || self.waiting(tenant);
        entry.meter.charge(&entry.tenant, recipients as u64, waiting, self.clock.timestamp())
    }

    /// Whom to ask how many recipients of a tenant wait in the queue. Set once, at wiring; asked for each submission of a
    /// tenant with `waiting_max`, so it must be quick.
    pub fn count_waiting_by(&self, count: CountWaiting) {
        if self.count_waiting.set(count).is_err() {
            tracing::error!("a second count of what waits was not taken");
        }
    }

    fn waiting(&self, tenant: &str) -> u64 {
        self.count_waiting.get().map_or(0, |count| count(tenant))
    }

    /// Writes what tenants used to the ledger.
    ///
    /// # Errors
    /// It could not be written; the next call tries again.
    ///
    /// # Cancel safety
    /// Safe; what may not have been written is written again.
    pub async fn save_usage(&self) -> Result<(), LedgerError> {
        let _alone = self.editing.lock().await;
        let directory = self.directory.load_full();
        let mut facts = Vec::new();
        let mut saved = Vec::new();
        for (name, entry) in &directory.tenants {
            if let Some((counts, word)) = entry.meter.save() {
                let value = serde_json::to_vec(&counts).expect("plain data");
                facts.push((name.as_bytes().to_vec(), Some(Bytes::from(value))));
                saved.push((&entry.meter, word));
            }
        }
        if !facts.is_empty() {
            self.ledger.put(Table::Usage, facts).await?;
            saved.into_iter().for_each(|(meter, word)| meter.saved(word));
        }
        Ok(())
    }

    /// Saves what tenants used every half a minute, for as long as it is polled.
    pub async fn keep_saving_usage(&self) {
        loop {
            tokio::time::sleep(SAVE_EVERY).await;
            if let Err(error) = self.save_usage().await {
                tracing::warn!(%error, "what tenants used of their quotas could not be saved");
            }
        }
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Octets that nobody can guess.
fn chance<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    aws_lc_rs::rand::fill(&mut octets).expect("the system's source of chance works");
    octets
}

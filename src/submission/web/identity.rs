//! Who a client is to us.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::gate::rejection;
use super::super::rejection::Rejection;
use super::Peer;
use crate::access::{Access, AccessError, How, Principal};
use crate::clock::Instant;
use crate::config::ApiConfig;

/// Who sends this request: by its certificate, by `authorization` (the header: a Bearer token, or a Basic user and
/// password), by its user on this machine, by the network it comes from, in this order.
///
/// A credential that is shown and wrong is refused, even from a trusted network: whoever shows one means to be held to
/// it. A certificate that names no tenant needs a token beside it; one that does, and a token, must mean the same tenant.
///
/// # Errors
/// [`RejectionKind::Unauthenticated`](super::super::RejectionKind::Unauthenticated); trouble of our own when credentials
/// cannot be looked up.
pub async fn principal<A>(
    access: &Access,
    config: &ApiConfig<A>,
    peer: &Peer,
    authorization: Option<&str>,
) -> Result<Arc<Principal>, Rejection> {
    let mut by_certificate = None;
    if peer.certificate {
        match access.by_certificate(&peer.names) {
            Ok(principal) => by_certificate = Some(principal),
            Err(AccessError::Unauthenticated) if authorization.is_some() => {}
            Err(AccessError::Unauthenticated) => {
                return Err(Rejection::unauthenticated("no tenant is known by this client certificate"));
            }
            Err(error) => return Err(rejection(error)),
        }
    }
    if let Some(authorization) = authorization {
        let principal = self::by_authorization(access, peer, authorization).await?;
        return match by_certificate {
            Some(other) if name(&other) != name(&principal) => {
                Err(Rejection::unauthenticated("the client certificate and the authorization mean different tenants"))
            }
            _ => Ok(principal),
        };
    }
    if let Some(principal) = by_certificate {
        return Ok(principal);
    }
    if let Some(user) = peer.user.filter(|user| is_trusted_user(config, *user, peer.user_name.as_deref())) {
        return Ok(Arc::new(Principal { tenant: None, how: How::User(user) }));
    }
    match peer.address {
        Some(address) if is_trusted(config, address) => Ok(Principal::network()),
        _ => Err(Rejection::unauthenticated("a token or a client certificate is needed")),
    }
}

/// Whether a client that [`principal`] let in would be let in now: its credential may have been revoked, its tenant
/// disabled, its network be trusted no more.
///
/// # Errors
/// [`RejectionKind::Unauthenticated`](super::super::RejectionKind::Unauthenticated).
pub fn stands<A>(access: &Access, config: &ApiConfig<A>, peer: &Peer, principal: &Principal) -> Result<(), Rejection> {
    let stands = match principal.how {
        How::Network => peer.address.is_some_and(|address| is_trusted(config, address)),
        How::User(user) => is_trusted_user(config, user, peer.user_name.as_deref()),
        How::Credential(_) | How::Certificate(_) => access.stands(principal),
    };
    if stands { Ok(()) } else { Err(Rejection::unauthenticated("you are not known any more")) }
}

/// How old an answer to [`stands`] may be.
const STANDS_FOR: Duration = Duration::from_secs(2);

/// A client that was let in and goes on asking: whether it still stands is looked up every two seconds, not each time.
#[derive(Debug, Clone)]
pub struct Standing {
    checked: Instant,
}

impl Standing {
    /// Of a client that was let in just now.
    pub fn new() -> Standing {
        Standing { checked: Instant::now() }
    }

    /// See [`stands`].
    ///
    /// # Errors
    /// [`RejectionKind::Unauthenticated`](super::super::RejectionKind::Unauthenticated), until it stands again.
    pub fn check<A>(
        &mut self,
        access: &Access,
        config: &ApiConfig<A>,
        peer: &Peer,
        principal: &Principal,
    ) -> Result<(), Rejection> {
        let now = Instant::now();
        if now.duration_since(self.checked) >= STANDS_FOR {
            stands(access, config, peer, principal)?;
            self.checked = now;
        }
        Ok(())
    }
}

impl Default for Standing {
    fn default() -> Standing {
        Standing::new()
    }
}

fn name(principal: &Principal) -> Option<&str> {
    principal.tenant.as_deref().map(|tenant| tenant.name.as_str())
}

async fn by_authorization(access: &Access, peer: &Peer, authorization: &str) -> Result<Arc<Principal>, Rejection> {
    match Authorization::read(authorization) {
        Some(Authorization::Bearer(token)) => access.by_token(token, peer.address).await.map_err(rejection),
        Some(Authorization::Basic { user, password }) => {
            access.by_password(&user, &password, peer.address).await.map_err(rejection)
        }
        None => Err(Rejection::unauthenticated("the authorization must be \"Bearer TOKEN\" or Basic")),
    }
}

/// What the field Authorization shows.
#[derive(PartialEq, Eq)]
pub(super) enum Authorization<'a> {
    /// A token.
    Bearer(&'a str),
    /// RFC 7617 §2.
    Basic { user: String, password: String },
}

impl<'a> Authorization<'a> {
    /// `None`: it is neither.
    pub(super) fn read(field: &'a str) -> Option<Authorization<'a>> {
        let (scheme, credentials) = field.trim().split_once(' ')?;
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Authorization::Bearer(credentials));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some(Authorization::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

fn is_trusted<A>(config: &ApiConfig<A>, address: IpAddr) -> bool {
    config.trusted_networks.iter().any(|network| network.contains(&address))
}

fn is_trusted_user<A>(config: &ApiConfig<A>, user: u32, name: Option<&str>) -> bool {
    config.trusted_users.iter().any(|trusted| name == Some(trusted) || trusted.parse() == Ok(user))
}

/// The name of a user of this machine, from `/etc/passwd`. Users from elsewhere (LDAP) are to be trusted by number.
pub(super) fn user_name(user: u32) -> Option<Box<str>> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    name_in(&accounts, user)
}

fn name_in(accounts: &str, user: u32) -> Option<Box<str>> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{NewCredential, Tenant};
    use crate::clock::Clock;
    use crate::config::GrpcConfig;
    use crate::ledger::Ledger;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn certificate_and_token_must_agree_and_both_be_right() {
        let ledger = Arc::new(Ledger::default());
        let access = Access::open(ledger, Arc::new(Metrics::new()), Clock).expect("a new ledger");
        let mut tokens = Vec::new();
        for name in ["shop", "bank"] {
            let tenant =
                Tenant { name: name.into(), certificates: vec![format!("{name}.example")], ..Tenant::default() };
            access.create(tenant).await.expect("a tenant");
            tokens.push(access.issue(name, NewCredential::default()).await.expect("a token").token);
        }
        let (shop, bank) = (format!("Bearer {}", tokens[0]), format!("Bearer {}", tokens[1]));
        let config = GrpcConfig::default();
        for (names, authorization, expected) in [
            (Some("shop.example"), None, Ok("shop")),
            (Some("shop.example"), Some(shop.as_str()), Ok("shop")),
            (Some("shop.example"), Some(bank.as_str()), Err(())),
            (Some("shop.example"), Some("Bearer nonsense"), Err(())),
            (Some("nobody.example"), Some(bank.as_str()), Ok("bank")),
            (Some("nobody.example"), None, Err(())),
            // A certificate without any name, from a trusted network.
            (Some(""), None, Err(())),
            (Some(""), Some(bank.as_str()), Ok("bank")),
            (None, None, Ok("")),
        ] {
            let peer = Peer {
                address: Some(IpAddr::from([127, 0, 0, 1])),
                certificate: names.is_some(),
                names: names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                ..Peer::default()
            };
            let found = principal(&access, &config, &peer, authorization).await;
            let found = found.as_ref().map(|found| name(found).unwrap_or_default()).map_err(|_| ());
            assert_eq!(found, expected, "{names:?} {authorization:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_no_more_is_seen_within_seconds() {
        let access = Access::open(Arc::new(Ledger::default()), Arc::new(Metrics::new()), Clock).expect("a new ledger");
        let peer = Peer { address: Some(IpAddr::from([127, 0, 0, 1])), ..Peer::default() };
        let trusting = GrpcConfig::default();
        let principal = principal(&access, &trusting, &peer, None).await.expect("from here");
        let distrusting = GrpcConfig { trusted_networks: Vec::new(), ..GrpcConfig::default() };
        let mut standing = Standing::new();
        for (seconds, config, expected) in [
            (0, &trusting, true),
            (0, &distrusting, true),
            (3, &distrusting, false),
            (0, &distrusting, false),
            (0, &trusting, true),
            (1, &distrusting, true),
            (1, &distrusting, false),
        ] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let found = standing.check(&access, config, &peer, &principal).is_ok();
            assert_eq!(found, expected, "{seconds} {:?}", config.trusted_networks);
        }
    }

    #[test]
    fn users_are_found_by_number() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33::/:/bin/false\n";
        assert_eq!(name_in(accounts, 0).as_deref(), Some("root"));
        assert_eq!(name_in(accounts, 33).as_deref(), Some("www"));
        assert_eq!(name_in(accounts, 34), None);
    }
}

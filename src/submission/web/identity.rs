//! Who a client is to us.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::super::gate::rejection;
use super::super::rejection::Rejection;
use super::Peer;
use crate::access::{Access, AccessError, How, Principal};
use crate::config::ApiConfig;

/// Who sends this request: by its certificate, by `authorization` (the header: a Bearer token, or a Basic user and
/// password), by its user on this machine, by the network it comes from, in this order.
///
/// A credential that is shown and wrong is refused, even from a trusted network: whoever shows one means to be held to
/// it. A certificate that names no tenant needs a token beside it.
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
    if !peer.names.is_empty() {
        match access.by_certificate(&peer.names) {
            Ok(principal) => return Ok(principal),
            Err(AccessError::Unauthenticated) if authorization.is_some() => {}
            Err(AccessError::Unauthenticated) => {
                return Err(Rejection::unauthenticated("no tenant is known by this client certificate"));
            }
            Err(error) => return Err(rejection(error)),
        }
    }
    if let Some(authorization) = authorization {
        return by_authorization(access, peer, authorization).await;
    }
    if let Some(user) = peer.user.filter(|user| is_trusted_user(config, *user, peer.user_name.as_deref())) {
        return Ok(Arc::new(Principal { tenant: None, how: How::User(user) }));
    }
    match peer.address {
        Some(address) if config.trusted_networks.iter().any(|network| network.contains(&address)) => {
            Ok(Principal::network())
        }
        _ => Err(Rejection::unauthenticated("a token or a client certificate is needed")),
    }
}

async fn by_authorization(access: &Access, peer: &Peer, authorization: &str) -> Result<Arc<Principal>, Rejection> {
    let malformed = || Rejection::unauthenticated("the authorization must be \"Bearer TOKEN\" or Basic");
    let (scheme, credentials) = authorization.trim().split_once(' ').ok_or_else(malformed)?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return access.by_token(credentials, peer.address).await.map_err(rejection);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    // RFC 7617 §2.
    let pair = BASE64_STANDARD.decode(credentials).ok().and_then(|pair| String::from_utf8(pair).ok());
    let pair = pair.ok_or_else(malformed)?;
    let (user, password) = pair.split_once(':').ok_or_else(malformed)?;
    access.by_password(user, password, peer.address).await.map_err(rejection)
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

    #[test]
    fn users_are_found_by_number() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33::/:/bin/false\n";
        assert_eq!(name_in(accounts, 0).as_deref(), Some("root"));
        assert_eq!(name_in(accounts, 33).as_deref(), Some("www"));
        assert_eq!(name_in(accounts, 34), None);
    }
}

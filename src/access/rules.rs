//! Holds a message against what its client may.

use super::directory::Entry;
use super::guard::Why;
use super::tenant::Tenant;
use super::{Access, AccessError, How, Principal, author};
use crate::mail::{Envelope, ReversePath, header};

impl Access {
    /// Whether `principal` may submit this; sets the tenant of the envelope's stream if it is left open.
    ///
    /// A client of a tenant sends only in its name, in the classes it may use, and not from the null reverse path: that is
    /// for reports, which are ours to write. Where the tenant is bound to some domains, so are the reverse path and all
    /// mailboxes in the From and Sender fields of `content`, and a field that cannot be read strictly is refused. What
    /// the tenant may is what it may now, not what it might when the client came.
    ///
    /// # Errors
    /// [`AccessError::Forbidden`]; [`AccessError::Unauthenticated`] if its credential has gone since it came.
    pub fn authorise(&self, principal: &Principal, envelope: &mut Envelope, content: &[u8]) -> Result<(), AccessError> {
        let directory = self.directory.load();
        let Some(then) = &principal.tenant else {
            let named = &envelope.stream.tenant;
            return match directory.tenant(named).filter(|entry| entry.tenant.disabled) {
                Some(_) => Err(forbidden("tenant", format!("tenant {named:?} is disabled"))),
                None => Ok(()),
            };
        };
        let found = match &principal.how {
            How::Credential(id) => directory.good(id, self.clock.timestamp()),
            How::Certificate(name) => directory.certificate(name).ok_or(Why::Wrong),
            How::Network | How::User(_) => directory.tenant(&then.name).ok_or(Why::Wrong),
        };
        let entry: &Entry = match found {
            Ok(entry) if entry.tenant.name != then.name => return Err(AccessError::Unauthenticated),
            Ok(entry) if !entry.tenant.disabled => entry,
            Ok(_) | Err(Why::Disabled) => {
                return Err(forbidden("tenant", format!("tenant {:?} is disabled", then.name)));
            }
            Err(Why::Wrong | Why::Expired) => return Err(AccessError::Unauthenticated),
        };
        let (tenant, stream) = (&entry.tenant, &mut envelope.stream);
        if stream.tenant.is_empty() {
            stream.tenant = tenant.name.as_str().into();
        } else if *stream.tenant != *tenant.name {
            return Err(forbidden("tenant", format!("must be {:?} or left out: so your credentials say", tenant.name)));
        }
        if !tenant.may_use(stream.class) {
            let why = format!("tenant {:?} may not use class {}", tenant.name, stream.class.as_str());
            return Err(forbidden("class", why));
        }
        check_names(tenant, &envelope.reverse_path, content)
    }
}

fn check_names(tenant: &Tenant, reverse_path: &ReversePath, content: &[u8]) -> Result<(), AccessError> {
    match reverse_path {
        ReversePath::Null => {
            let why = "may not be null: reports of what cannot be delivered need an address to go to";
            return Err(forbidden("sender", why.to_owned()));
        }
        ReversePath::Address(address) if !tenant.may_write(address.host()) => {
            return Err(forbidden("sender", not_yours(tenant, &address.to_string())));
        }
        ReversePath::Address(_) => {}
    }
    if tenant.from_domains.is_empty() { Ok(()) } else { check_author(tenant, content) }
}

/// Every mailbox of every From and Sender field is the tenant's, and there is a From.
fn check_author(tenant: &Tenant, content: &[u8]) -> Result<(), AccessError> {
    let section = &content[..header::section_len(content)];
    let (mut end, mut has_from) = (0, false);
    for field in header::fields(section) {
        end = field.end;
        let name = match field.name.len() {
            4 if field.is("From") => "From",
            6 if field.is("Sender") => "Sender",
            _ => continue,
        };
        has_from |= name == "From";
        let mut foreign = None;
        let read = author::mailboxes(field.value, |address| {
            if foreign.is_none() && !tenant.may_write(address.host()) {
                foreign = Some(address);
            }
        });
        if let Err(why) = read {
            return Err(forbidden("from", format!("field {name} {why}")));
        }
        if let Some(address) = foreign {
            return Err(forbidden("from", format!("field {name}: {}", not_yours(tenant, &address.to_string()))));
        }
    }
    match (has_from, end == section.len()) {
        (true, true) => Ok(()),
        (false, true) => Err(forbidden("from", "the message has no From".to_owned())),
        (_, false) => Err(forbidden("from", "the header cannot be read".to_owned())),
    }
}

fn not_yours(tenant: &Tenant, address: &str) -> String {
    let shown: Vec<_> = tenant.from_domains.iter().take(3).map(|domain| domain.as_str()).collect();
    let more = if tenant.from_domains.len() > shown.len() { ", …" } else { "" };
    let address: String = address.chars().take(80).collect();
    format!("{address} is not in the domains of tenant {:?}: {}{more}", tenant.name, shown.join(", "))
}

fn forbidden(field: &'static str, why: String) -> AccessError {
    AccessError::Forbidden { field, why: why.into() }
}

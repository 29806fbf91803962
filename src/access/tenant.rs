//! A tenant and what it may.

use serde::{Deserialize, Serialize};

use crate::mail::{AddressHost, Class, Domain};

/// Longest name of a tenant or label of a credential, in octets.
pub(super) const NAME_MAX: usize = 64;

/// Most entries in each list of a tenant.
const LIST_MAX: usize = 1000;

/// Recipients that may come at once where nothing else is said.
const BURST: u32 = 100;

/// One who sends through us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tenant {
    /// Its name, as in streams, events and logs.
    pub name: String,
    /// Domains it may write From, each with all below it; empty: any.
    pub from_domains: Vec<Domain>,
    /// Classes it may use; empty: transactional and bulk.
    pub classes: Vec<Class>,
    /// How much it may submit.
    pub quota: Quota,
    /// Names in client certificates (DNS names or common name) that stand for it.
    pub certificates: Vec<String>,
    /// Nothing is taken from it, or in its name.
    pub disabled: bool,
}

/// How much a tenant may submit, in recipients; `None`: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// In a second, in the mean.
    pub per_second: Option<u32>,
    /// At once, when nothing was sent for a while; not said: as many as in a second, at least 100.
    pub burst: Option<u32>,
    /// In any hour.
    pub per_hour: Option<u64>,
    /// In any day.
    pub per_day: Option<u64>,
    /// Waiting in the queue.
    pub waiting_max: Option<u64>,
}

/// A field of a tenant or a credential that cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadField {
    /// Its path, as `quota.burst`.
    pub field: String,
    /// What is wrong and what would be right.
    pub why: String,
}

impl BadField {
    pub(super) fn new(field: impl Into<String>, why: impl Into<String>) -> BadField {
        BadField { field: field.into(), why: why.into() }
    }
}

impl Tenant {
    /// Whether mail may bear an address at that host.
    pub(super) fn may_write(&self, host: &AddressHost) -> bool {
        let within = |domain: &str, above: &Domain| match domain.strip_suffix(above.as_str()) {
            Some(below) => below.is_empty() || below.ends_with('.'),
            None => false,
        };
        self.from_domains.is_empty()
            || match host {
                AddressHost::Domain(domain) => self.from_domains.iter().any(|above| within(domain.as_str(), above)),
                AddressHost::Literal(_) => false,
            }
    }

    /// Whether it may use that class.
    pub(super) fn may_use(&self, class: Class) -> bool {
        match self.classes.is_empty() {
            true => class != Class::System,
            false => self.classes.contains(&class),
        }
    }

    /// What is wrong with it, all at once; whether it collides with another one is for [`Access`](super::Access) to say.
    pub fn problems(&self) -> Vec<BadField> {
        let mut problems = Vec::new();
        let mut bad = |field: String, why: &str| problems.push(BadField::new(field, why));
        if !is_name(&self.name) {
            bad("name".into(), NAME_RULE);
        }
        if self.classes.contains(&Class::System) {
            bad("classes".into(), "system is kept for our own reports; say transactional or bulk");
        }
        for (at, name) in self.certificates.iter().enumerate() {
            if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
                bad(format!("certificates[{at}]"), "must be a name of 1 to 255 octets");
            }
        }
        let lists = [
            ("from_domains", self.from_domains.len()),
            ("classes", self.classes.len()),
            ("certificates", self.certificates.len()),
        ];
        for (list, _) in lists.into_iter().filter(|(_, len)| *len > LIST_MAX) {
            bad(list.into(), "has more than 1000 entries");
        }
        let quota = &self.quota;
        for (limit, zero) in [("per_second", quota.per_second == Some(0)), ("burst", quota.burst == Some(0))] {
            if zero {
                bad(format!("quota.{limit}"), "must be at least 1; to stop a tenant, disable it");
            }
        }
        if quota.burst.is_some() && quota.per_second.is_none() {
            bad("quota.burst".into(), "means nothing without quota.per_second");
        }
        problems
    }
}

impl Quota {
    /// Recipients in a second and at once.
    pub(super) fn rate(&self) -> Option<(u32, u32)> {
        self.per_second.map(|per_second| (per_second, self.burst.unwrap_or(per_second.max(BURST))))
    }
}

pub(super) const NAME_RULE: &str =
    "must be 1 to 64 letters a-z, digits, dots, hyphens or underscores, the first a letter or digit";

/// Whether a tenant may be called that. Names stand in URLs, user names and file names.
pub(super) fn is_name(name: &str) -> bool {
    let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| fit(b) || b".-_".contains(&b))
        && name.bytes().next().is_some_and(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Tenant {
        let domains = ["shop.example", "xn--bcher-kva.example"];
        let from_domains = domains.iter().map(|domain| domain.parse().expect("a domain")).collect();
        Tenant { name: "shop".into(), from_domains, ..Tenant::default() }
    }

    #[test]
    fn a_domain_stands_for_all_below_it() {
        let host = |domain: &str| AddressHost::Domain(domain.parse().expect("a domain"));
        for (domain, may) in [
            ("shop.example", true),
            ("news.SHOP.example", true),
            ("a.b.shop.example.", true),
            ("bücher.example", true),
            ("myshop.example", false),
            ("shop.example.evil.example", false),
            ("example", false),
        ] {
            assert_eq!(shop().may_write(&host(domain)), may, "{domain}");
            assert!(Tenant::default().may_write(&host(domain)));
        }
        assert!(!shop().may_write(&AddressHost::Literal([192, 0, 2, 1].into())));
    }

    #[test]
    fn classes() {
        let bulk = Tenant { classes: vec![Class::Bulk], ..Tenant::default() };
        assert_eq!(Class::ALL.map(|class| bulk.may_use(class)), [false, true, false]);
        assert_eq!(Class::ALL.map(|class| Tenant::default().may_use(class)), [true, true, false]);
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let tenant = Tenant {
            name: "Shop 1".into(),
            classes: vec![Class::System],
            certificates: vec!["a".into(), String::new()],
            quota: Quota { burst: Some(0), ..Quota::default() },
            ..Tenant::default()
        };
        let fields: Vec<_> = tenant.problems().into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["name", "classes", "certificates[1]", "quota.burst", "quota.burst"]);
        assert_eq!(shop().problems(), []);
        for (name, good) in [("a", true), ("shop-1.eu_2", true), ("", false), ("-a", false), ("a/b", false)] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}

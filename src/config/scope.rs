//! Which mail a rule is about.

use serde::{Deserialize, Serialize};

use crate::mail::{Class, Stream};

/// Which mail a limit, an order or a threshold is about: whatever is named must be so; nothing named: all mail. Names are
/// compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Family of sites, by its profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Set of hosts that share limits, as `queue sites` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Domain of the recipient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Where mail leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The sources that share the mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Who submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `transactional`, `bulk` or `system`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The mailing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
}

/// What is known of a path and of the mail that would take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Family of sites.
    pub provider: &'a str,
    /// The site.
    pub site: &'a str,
    /// Domain of the recipient.
    pub domain: &'a str,
    /// Where it leaves.
    pub source: &'a str,
    /// The pool that source is of.
    pub pool: &'a str,
    /// Who submitted.
    pub tenant: &'a str,
    /// Its class.
    pub class: Class,
    /// The mailing.
    pub campaign: &'a str,
}

impl<'a> Subject<'a> {
    /// Mail of a stream at a provider, whatever else.
    pub fn of_stream(stream: &'a Stream, provider: &'a str) -> Subject<'a> {
        Subject {
            provider,
            site: "",
            domain: "",
            source: "",
            pool: "",
            tenant: &stream.tenant,
            class: stream.class,
            campaign: &stream.campaign,
        }
    }
}

impl Scope {
    /// What it names, as if it were mail; empty where it names nothing.
    pub fn subject(&self) -> Subject<'_> {
        fn name(name: &Option<String>) -> &str {
            name.as_deref().unwrap_or_default()
        }
        Subject {
            provider: name(&self.provider),
            site: name(&self.site),
            domain: name(&self.domain),
            source: name(&self.source),
            pool: name(&self.pool),
            tenant: name(&self.tenant),
            class: self.class.unwrap_or_default(),
            campaign: name(&self.campaign),
        }
    }

    /// Whether it is about this.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let names = [
            (&self.provider, subject.provider),
            (&self.site, subject.site),
            (&self.domain, subject.domain),
            (&self.source, subject.source),
            (&self.pool, subject.pool),
            (&self.tenant, subject.tenant),
            (&self.campaign, subject.campaign),
        ];
        let class = self.class.is_none_or(|class| class == subject.class);
        class && names.iter().all(|(wanted, name)| wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(name)))
    }

    /// Whether it is about a stream, of which it is not known yet where its mail goes.
    pub fn matches_stream(&self, stream: &Stream) -> bool {
        self.matches(&Subject::of_stream(stream, ""))
    }

    /// It speaks of the way mail takes (provider, site, source, pool) and of nothing else: all streams share it.
    pub fn is_of_paths(&self) -> bool {
        self.domain.is_none() && self.tenant.is_none() && self.class.is_none() && self.campaign.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_named_must_be_so() {
        let subject = Subject {
            provider: "google",
            site: "mx.example.com",
            domain: "example.com",
            source: "out1",
            pool: "default",
            tenant: "shop",
            class: Class::Bulk,
            campaign: "spring",
        };
        let named = |name: &str| Some(name.to_owned());
        for (scope, expected) in [
            (Scope::default(), true),
            (Scope { provider: named("Google"), ..Scope::default() }, true),
            (Scope { provider: named("yahoo"), ..Scope::default() }, false),
            (Scope { tenant: named("shop"), campaign: named("autumn"), ..Scope::default() }, false),
            (Scope { class: Some(Class::Bulk), source: named("out1"), ..Scope::default() }, true),
            (Scope { class: Some(Class::Transactional), ..Scope::default() }, false),
        ] {
            assert_eq!(scope.matches(&subject), expected, "{scope:?}");
        }
        assert!(Scope { site: named("x"), ..Scope::default() }.is_of_paths());
        assert!(!Scope { tenant: named("x"), ..Scope::default() }.is_of_paths());
    }
}

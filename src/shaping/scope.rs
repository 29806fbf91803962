//! What something is about.

use serde::{Deserialize, Serialize};

use crate::mail::Class;

/// Which mail is meant: all that agrees with everything said here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// The family of sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The recipient's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Who sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The campaign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
}

/// The same of one message or path; `None`: not known here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'a> {
    /// The family of sites.
    pub provider: Option<&'a str>,
    /// The site.
    pub site: Option<&'a str>,
    /// The recipient's domain.
    pub domain: Option<&'a str>,
    /// The source.
    pub source: Option<&'a str>,
    /// The pool.
    pub pool: Option<&'a str>,
    /// Who sends.
    pub tenant: Option<&'a str>,
    /// The class.
    pub class: Option<Class>,
    /// The campaign.
    pub campaign: Option<&'a str>,
}

impl Scope {
    /// Whether all that is said here is so.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let fits = |said: &Option<String>, is: Option<&str>| said.as_deref().is_none_or(|said| is == Some(said));
        fits(&self.campaign, subject.campaign)
            && fits(&self.tenant, subject.tenant)
            && fits(&self.domain, subject.domain)
            && fits(&self.site, subject.site)
            && fits(&self.source, subject.source)
            && fits(&self.pool, subject.pool)
            && fits(&self.provider, subject.provider)
            && self.class.is_none_or(|class| subject.class == Some(class))
    }
}

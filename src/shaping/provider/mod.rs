//! What is known of single providers: which sites are theirs, what they take, what their replies ask of us.
//!
//! Knowledge is data: `config/providers/*.toml`, compiled in, and what an operator puts beside it (`shaping.providers_dir`).
//! A new provider, a new reply, another limit need no code; `docs/traffic.md` says how. In order:
//!
//! 1. The files are read and laid over one another (`file.rs`).
//! 2. All rules become one search (`rules.rs`), all MX suffixes one table (`suffixes.rs`).
//! 3. What cannot be meant so is told with line and remedy (`lint.rs`): rules that are never reached, that say the same or
//!    the contrary of another, samples that their rule does not match.
//!
//! Then [`Profiles::of_hosts`] says whose a site is, and [`Profiles::advise`] what a reply asks: an [`Action`], and how long
//! to wait, which many replies say themselves (`wait.rs`).

mod file;
mod lint;
mod rules;
mod suffixes;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use file::{Action, Bounds, Limits};
pub use wait::named_wait;

use super::controller;
use crate::config::{LimitConfig, Problem, RateLimit, Severity, ShapingConfig};
use crate::mail::{EnhancedCode, Reason, Reply};
use rules::RuleBook;
use suffixes::Suffixes;

/// The profile of every site that is nobody else's. Its rules also judge what those of other profiles do not match.
pub const DEFAULT: &str = "default";

/// The profile of fixed routes (`[[route]]`): hosts of our own, which no MX record names.
pub const RELAY: &str = "relay";

/// What is known of a provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its name: `google`. Letters, digits and hyphens; a label of metrics, so there are few of them, and they live as long as
    /// the process, as metrics do.
    pub name: &'static str,
    /// Domains at or below which all its MX hosts are.
    pub mx: Vec<String>,
    /// What it takes from one source at one site. What is `None` is not limited by the profile.
    pub limits: Limits,
    /// Between what the adaptive control may move.
    pub bounds: Bounds,
}

impl Profile {
    /// Between what the adaptive control moves at its sites.
    pub fn control(&self) -> controller::Bounds {
        let bounds = &self.bounds;
        let all = controller::Bounds::default();
        let per_second = |rate: RateLimit| rate.amount as f64 / rate.period.as_secs_f64();
        controller::Bounds {
            rate_min: bounds.rate_floor.map_or(all.rate_min, per_second),
            rate_max: bounds.rate_ceiling.map_or(all.rate_max, per_second),
            sessions_min: bounds.connections_floor.unwrap_or(all.sessions_min),
            sessions_max: bounds.connections_ceiling.unwrap_or(all.sessions_max),
        }
    }

    /// Its limits as a `[[limit]]` would say them: for this provider, each source and site by itself. `None` if it has none.
    pub fn row(&self) -> Option<LimitConfig> {
        self.limits.row(self.name)
    }
}

/// What a reply asks of us.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice<'a> {
    /// The profile whose rule it is; the site's own if none matched.
    pub provider: &'a str,
    /// The rule's name; empty if none matched.
    pub rule: &'a str,
    /// Why the receiver refused.
    pub reason: Reason,
    /// What to do beside trying again.
    pub action: Action,
    /// How long: as the reply says, else as the rule says, else as is usual for the action. `None`: by the schedule.
    pub wait: Option<Duration>,
    /// The wait was read in the reply.
    pub named: bool,
    /// The receiver means "later", whatever the first digit of its code says.
    pub transient: bool,
}

/// All profiles in force. Cheap to ask, and never changed: a reload makes new ones.
#[derive(Debug)]
pub struct Profiles {
    profiles: Vec<Profile>,
    by_name: HashMap<&'static str, usize>,
    suffixes: Suffixes,
    book: RuleBook,
}

/// The profiles that are compiled in.
const BUILT_IN: [(&str, &str); 17] = [
    ("default.toml", include_str!("../../../config/providers/default.toml")),
    ("relay.toml", include_str!("../../../config/providers/relay.toml")),
    ("163.toml", include_str!("../../../config/providers/163.toml")),
    ("apple.toml", include_str!("../../../config/providers/apple.toml")),
    ("barracuda.toml", include_str!("../../../config/providers/barracuda.toml")),
    ("comcast.toml", include_str!("../../../config/providers/comcast.toml")),
    ("gmx.toml", include_str!("../../../config/providers/gmx.toml")),
    ("google.toml", include_str!("../../../config/providers/google.toml")),
    ("mailru.toml", include_str!("../../../config/providers/mailru.toml")),
    ("microsoft365.toml", include_str!("../../../config/providers/microsoft365.toml")),
    ("mimecast.toml", include_str!("../../../config/providers/mimecast.toml")),
    ("orange.toml", include_str!("../../../config/providers/orange.toml")),
    ("outlook.toml", include_str!("../../../config/providers/outlook.toml")),
    ("proofpoint.toml", include_str!("../../../config/providers/proofpoint.toml")),
    ("qq.toml", include_str!("../../../config/providers/qq.toml")),
    ("yahoo.toml", include_str!("../../../config/providers/yahoo.toml")),
    ("yandex.toml", include_str!("../../../config/providers/yandex.toml")),
];

impl Profiles {
    /// Those compiled in, and nothing else.
    pub fn built_in() -> Profiles {
        Profiles::read(&[]).map(|(profiles, _)| profiles).expect("a test reads them")
    }

    /// Those compiled in, with an operator's files (where they stand, what they say) laid over them in the order given. With
    /// them come the warnings.
    ///
    /// # Errors
    /// Every problem, by file and line; at least one of them is an error.
    pub fn read(own: &[(PathBuf, String)]) -> Result<(Profiles, Vec<Problem>), Vec<Problem>> {
        let built_in = BUILT_IN.iter().map(|(name, text)| (Path::new("config/providers").join(name), *text));
        let own = own.iter().map(|(file, text)| (file.clone(), text.as_str()));
        let (merged, mut problems) = file::merge(built_in.chain(own));
        let suffixes = Suffixes::new(&merged, &mut problems);
        let book = RuleBook::new(&merged);
        lint::lint(&merged, &book, &mut problems);
        problems.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(problems);
        }
        let profiles: Vec<Profile> = merged.into_iter().map(file::Merged::into_profile).collect();
        let by_name = profiles.iter().enumerate().map(|(place, one)| (one.name, place)).collect();
        Ok((Profiles { profiles, by_name, suffixes, book }, problems))
    }

    /// Those that a configuration means: compiled in, and of its folder. Blocking.
    ///
    /// # Errors
    /// As [`Profiles::read`], or what could not be read.
    pub fn load(config: &ShapingConfig) -> Result<(Profiles, Vec<Problem>), Vec<Problem>> {
        Profiles::read(&config.provider_files()?)
    }

    /// Whose a site is: the one provider that all these hosts belong to, else the default one.
    ///
    /// A host belongs to the profile with the longest suffix. All must agree, so that nobody gets a provider's limits by
    /// naming one of its hosts among their own.
    pub fn of_hosts<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> &Profile {
        let mut owner = None;
        for host in hosts {
            match (self.suffixes.owner(host), owner) {
                (Some(this), None) => owner = Some(this),
                (Some(this), Some(other)) if this == other => {}
                (None, _) | (Some(_), Some(_)) => return self.get(DEFAULT),
            }
        }
        owner.map_or_else(|| self.get(DEFAULT), |place| &self.profiles[place])
    }

    /// The profile of that name; the default one if there is none (any more).
    pub fn get(&self, name: &str) -> &Profile {
        let place = self.by_name.get(name).or_else(|| self.by_name.get(DEFAULT));
        place.map_or(&self.profiles[0], |place| &self.profiles[*place])
    }

    /// Every profile, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.iter()
    }

    /// What a reply of this provider asks. Its own rules are asked first, then those of the default profile.
    pub fn advise(&self, provider: &str, reply: &Reply) -> Advice<'_> {
        self.advise_text(provider, Some(reply.code), reply.enhanced, &reply.text)
    }

    /// The same of a reply whose codes may be missing. `text` may hold them or not.
    pub fn advise_text(
        &self,
        provider: &str,
        code: Option<u16>,
        enhanced: Option<EnhancedCode>,
        text: &str,
    ) -> Advice<'_> {
        let own = self.by_name.get(provider).copied().unwrap_or(0);
        let text = crate::mail::wording::comparable(text);
        let named = named_wait(&text);
        match self.book.first(own, code, enhanced, &text) {
            Some(rule) => Advice {
                provider: self.profiles[rule.profile].name,
                rule: &rule.name,
                reason: rule.reason,
                action: rule.action,
                wait: named.or(rule.wait).or(rule.action.usual_wait()),
                named: named.is_some(),
                transient: rule.transient,
            },
            None => Advice {
                provider: self.profiles[own].name,
                rule: "",
                reason: Reason::Other,
                action: Action::None,
                wait: named,
                named: named.is_some(),
                transient: false,
            },
        }
    }
}

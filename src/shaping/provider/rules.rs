//! All reply rules as one search.

use std::time::Duration;

use super::Action;
use super::file::{Merged, RuleFile};
use crate::mail::wording::{Phrases, PhrasesBuilder, Wording, spread};
use crate::mail::{EnhancedCode, Reason};

/// The rules of all profiles. The texts of all are searched for in one pass; then a profile's rules are asked in order,
/// and those of the default profile (which is the first) behind them.
#[derive(Debug)]
pub(super) struct RuleBook {
    phrases: Option<Phrases>,
    /// By profile.
    rules: Vec<Vec<Rule>>,
}

/// A rule, ready to be asked.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) profile: usize,
    pub(super) name: String,
    pub(super) reason: Reason,
    pub(super) action: Action,
    pub(super) wait: Option<Duration>,
    pub(super) transient: bool,
    code: Vec<String>,
    enhanced: Vec<EnhancedCode>,
    wording: Wording,
}

impl RuleBook {
    pub(super) fn new(profiles: &[Merged]) -> RuleBook {
        let mut texts = PhrasesBuilder::default();
        let rules = profiles.iter().enumerate();
        let rules = rules
            .map(|(place, profile)| profile.rules.iter().map(|rule| Rule::new(place, &rule.rule, &mut texts)).collect())
            .collect();
        RuleBook { phrases: texts.build(), rules }
    }

    /// Whether its texts are too many to be searched for.
    pub(super) fn is_too_large(&self) -> bool {
        self.phrases.is_none()
    }

    /// The first rule of the profile, or of the default one, that a comparable text with these codes meets.
    pub(super) fn first(
        &self,
        profile: usize,
        code: Option<u16>,
        enhanced: Option<EnhancedCode>,
        comparable: &str,
    ) -> Option<&Rule> {
        let found = self.phrases.as_ref()?.find(comparable);
        let own = self.rules.get(profile).into_iter();
        let fallback = self.rules.first().filter(|_| profile != 0);
        own.chain(fallback).flatten().find(|rule| rule.codes_fit(code, enhanced) && rule.wording.is_met(&found))
    }
}

impl Rule {
    fn new(profile: usize, rule: &RuleFile, texts: &mut PhrasesBuilder) -> Rule {
        Rule {
            profile,
            name: rule.name.clone(),
            reason: rule.reason,
            action: rule.action,
            wait: rule.wait,
            transient: rule.transient,
            code: rule.code.clone(),
            enhanced: rule.enhanced.iter().flat_map(|name| spread(name)).collect(),
            wording: texts.wording(&rule.any, &rule.unless),
        }
    }

    fn codes_fit(&self, code: Option<u16>, enhanced: Option<EnhancedCode>) -> bool {
        let begins = |code: u16| {
            let digits = [b'0' + (code / 100 % 10) as u8, b'0' + (code / 10 % 10) as u8, b'0' + (code % 10) as u8];
            self.code.iter().any(|wanted| digits.starts_with(wanted.as_bytes()))
        };
        (self.code.is_empty() || code.is_some_and(begins))
            && (self.enhanced.is_empty() || enhanced.is_some_and(|code| self.enhanced.contains(&code)))
    }
}

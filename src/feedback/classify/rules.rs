//! The rules: tables in `config/replies/`, compiled in, read once, searched by one automaton.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::mail::wording::{Phrases, PhrasesBuilder, Wording, spread};
use crate::mail::{EnhancedCode, Reason};

/// What is read of a table of texts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rule: Vec<Rule>,
}

/// Texts that mean one thing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Its name, unique.
    pub(super) name: String,
    /// What it means.
    pub(super) reason: Reason,
    /// Out of a hundred.
    #[serde(default = "usual_confidence")]
    pub(super) confidence: u8,
    /// Only when the hint says it is this provider, or the text names it.
    #[serde(default)]
    provider: Vec<String>,
    /// Only with a reply code that begins so; no code does too.
    #[serde(default)]
    code: Vec<String>,
    /// Never hard, whatever the reason.
    #[serde(default)]
    pub(super) soft: bool,
    /// Texts of which one must stand there; `a & b` wants both.
    any: Vec<String>,
    /// Texts that must not.
    #[serde(default)]
    unless: Vec<String>,
    /// A reply that it is for.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers and tests"))]
    pub(super) sample: String,
}

/// What is read of the table of enhanced codes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeTable {
    code: Vec<CodeRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeRule {
    /// `5.1.1`, `x.2.2` for 4 and 5, `5.7.606-649`.
    codes: Vec<String>,
    reason: Reason,
    /// Says enough to go before any text.
    #[serde(default)]
    sure: bool,
}

/// A rule with its texts as numbers of the automaton.
struct Prepared {
    rule: Rule,
    provider: Vec<usize>,
    wording: Wording,
}

/// The tables, ready.
pub(super) struct Rules {
    phrases: Phrases,
    prepared: Vec<Prepared>,
    sure: HashMap<EnhancedCode, Reason>,
    likely: HashMap<EnhancedCode, Reason>,
}

const fn usual_confidence() -> u8 {
    85
}

/// Compiled in; a test reads them, so that they cannot fail at run time.
pub(super) static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let codes = toml::from_str(include_str!("../../../config/replies/codes.toml")).expect("tested");
    let providers: Table = toml::from_str(include_str!("../../../config/replies/providers.toml")).expect("tested");
    let texts: Table = toml::from_str(include_str!("../../../config/replies/texts.toml")).expect("tested");
    Rules::new(codes, providers.rule.into_iter().chain(texts.rule))
});

impl Rules {
    fn new(codes: CodeTable, rules: impl Iterator<Item = Rule>) -> Rules {
        let mut texts = PhrasesBuilder::default();
        let mut prepared = Vec::new();
        for rule in rules {
            let wording = texts.wording(&rule.any, &rule.unless);
            let provider = rule.provider.iter().map(|name| texts.number(name)).collect();
            prepared.push(Prepared { rule, provider, wording });
        }
        let phrases = texts.build().expect("a few thousand short texts");
        let (mut sure, mut likely) = (HashMap::new(), HashMap::new());
        for rule in codes.code {
            for code in rule.codes.iter().flat_map(|code| spread(code)) {
                if rule.sure { &mut sure } else { &mut likely }.insert(code, rule.reason);
            }
        }
        Rules { phrases, prepared, sure, likely }
    }

    /// What the enhanced code says whatever the text says.
    pub(super) fn sure(&self, code: EnhancedCode) -> Option<Reason> {
        self.sure.get(&code).copied()
    }

    /// What the enhanced code says when the text says nothing.
    pub(super) fn likely(&self, code: EnhancedCode) -> Option<Reason> {
        self.likely.get(&code).copied()
    }

    /// The first rule that a comparable text meets: one pass over the text, then one over the rules.
    pub(super) fn first(&self, comparable: &str, code: Option<u16>, provider: &str) -> Option<&Rule> {
        let found = self.phrases.find(comparable);
        let digits = code.map(|code| code.to_string());
        let meets = |one: &&Prepared| {
            let code_fits = one.rule.code.is_empty()
                || digits
                    .as_ref()
                    .is_none_or(|digits| one.rule.code.iter().any(|code| digits.starts_with(code.as_str())));
            let provider_fits = one.provider.is_empty()
                || one.rule.provider.iter().any(|name| provider.contains(name.as_str()))
                || one.provider.iter().any(|name| found.has(*name));
            code_fits && provider_fits && one.wording.is_met(&found)
        };
        self.prepared.iter().find(meets).map(|one| &one.rule)
    }

    /// Every rule.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.prepared.iter().map(|one| &one.rule)
    }
}

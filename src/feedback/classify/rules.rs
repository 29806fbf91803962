//! The rules: tables in `config/replies/`, compiled in, read once, searched by one automaton.

use std::collections::HashMap;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::Deserialize;

use super::taxonomy::Reason;
use crate::mail::EnhancedCode;

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
    any: Vec<Vec<usize>>,
    unless: Vec<Vec<usize>>,
}

/// The tables, ready.
pub(super) struct Rules {
    automaton: AhoCorasick,
    texts: usize,
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
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut words: Vec<String> = Vec::new();
        let mut number = |text: &str| {
            *numbers.entry(text.to_owned()).or_insert_with(|| {
                words.push(text.to_owned());
                words.len() - 1
            })
        };
        let mut prepared = Vec::new();
        for rule in rules {
            let mut both = |text: &String| text.split(" & ").map(&mut number).collect::<Vec<_>>();
            let any = rule.any.iter().map(&mut both).collect();
            let unless = rule.unless.iter().map(&mut both).collect();
            let provider = rule.provider.iter().map(|name| number(name)).collect();
            prepared.push(Prepared { rule, provider, any, unless });
        }
        let automaton = AhoCorasick::new(&words).expect("a few thousand short texts");
        let (mut sure, mut likely) = (HashMap::new(), HashMap::new());
        for rule in codes.code {
            for code in rule.codes.iter().flat_map(|code| spread(code)) {
                if rule.sure { &mut sure } else { &mut likely }.insert(code, rule.reason);
            }
        }
        Rules { automaton, texts: words.len(), prepared, sure, likely }
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
        let mut found = vec![false; self.texts];
        for hit in self.automaton.find_overlapping_iter(comparable) {
            found[hit.pattern().as_usize()] = true;
        }
        let digits = code.map(|code| code.to_string());
        let all = |texts: &Vec<usize>| texts.iter().all(|text| found[*text]);
        let meets = |one: &&Prepared| {
            let code_fits = one.rule.code.is_empty()
                || digits
                    .as_ref()
                    .is_none_or(|digits| one.rule.code.iter().any(|code| digits.starts_with(code.as_str())));
            let provider_fits = one.provider.is_empty()
                || one.rule.provider.iter().any(|name| provider.contains(name.as_str()))
                || one.provider.iter().any(|name| found[*name]);
            code_fits && provider_fits && one.any.iter().any(all) && !one.unless.iter().any(all)
        };
        self.prepared.iter().find(meets).map(|one| &one.rule)
    }

    /// Every rule.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.prepared.iter().map(|one| &one.rule)
    }
}

/// The codes that a name stands for.
fn spread(name: &str) -> Vec<EnhancedCode> {
    let mut parts = name.split('.');
    let mut part = || parts.next().unwrap_or_default();
    let (class, subject, detail) = (part(), part(), part());
    let classes = if class == "x" { vec!["4", "5"] } else { vec![class] };
    let (from, to) = detail.split_once('-').unwrap_or((detail, detail));
    let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { return Vec::new() };
    let named = |detail| classes.iter().filter_map(move |class| format!("{class}.{subject}.{detail}").parse().ok());
    (from..=to).flat_map(named).collect()
}

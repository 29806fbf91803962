//! Many texts searched for in one pass, and what rules want of those found.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;

/// Texts to search for, together.
#[derive(Debug)]
pub struct Phrases {
    automaton: AhoCorasick,
    count: usize,
}

/// Collects the texts of all rules; the same text twice is searched for once.
#[derive(Debug, Default)]
pub struct PhrasesBuilder {
    numbers: HashMap<String, usize>,
    words: Vec<String>,
}

/// What a rule wants of a text. One that wants nothing is met by every text.
#[derive(Debug, Clone, Default)]
pub struct Wording {
    any: Vec<Vec<usize>>,
    unless: Vec<Vec<usize>>,
}

/// Which of the texts stand in one that was searched.
#[derive(Debug)]
pub struct Found(Vec<bool>);

impl PhrasesBuilder {
    /// The number of a text.
    pub fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.words.push(text.to_owned());
        self.numbers.insert(text.to_owned(), self.words.len() - 1);
        self.words.len() - 1
    }

    /// Of `any` one must stand there, of `unless` none; `a & b` wants both.
    pub fn wording(&mut self, any: &[String], unless: &[String]) -> Wording {
        let mut both = |text: &String| text.split(" & ").map(|part| self.number(part)).collect::<Vec<_>>();
        let any = any.iter().map(&mut both).collect();
        Wording { any, unless: unless.iter().map(&mut both).collect() }
    }

    /// Ready to search. `None` if the texts are too many or too long for one automaton.
    pub fn build(self) -> Option<Phrases> {
        Some(Phrases { automaton: AhoCorasick::new(&self.words).ok()?, count: self.words.len() })
    }
}

impl Phrases {
    /// Searches a text that is [`comparable`](super::comparable).
    pub fn find(&self, comparable: &str) -> Found {
        let mut found = vec![false; self.count];
        for hit in self.automaton.find_overlapping_iter(comparable) {
            found[hit.pattern().as_usize()] = true;
        }
        Found(found)
    }
}

impl Found {
    /// Whether the text with that number stands there.
    pub fn has(&self, number: usize) -> bool {
        self.0.get(number).is_some_and(|found| *found)
    }
}

impl Wording {
    /// Whether the text that was searched is as the rule wants it.
    pub fn is_met(&self, found: &Found) -> bool {
        let all = |texts: &Vec<usize>| texts.iter().all(|text| found.has(*text));
        (self.any.is_empty() || self.any.iter().any(all)) && !self.unless.iter().any(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::wording::comparable;

    fn check_met(any: &[&str], unless: &[&str], text: &str, expected: bool) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut builder = PhrasesBuilder::default();
        let wording = builder.wording(&owned(any), &owned(unless));
        let phrases = builder.build().expect("few texts");
        assert_eq!(wording.is_met(&phrases.find(&comparable(text))), expected, "{any:?} unless {unless:?}: {text}");
    }

    #[test]
    fn finds_what_rules_want() {
        check_met(&["too many"], &[], "421 Too many connections", true);
        check_met(&["too many & connections"], &[], "421 connections: too many", true);
        check_met(&["too many & connections"], &[], "452 too many recipients", false);
        check_met(&["too many"], &["recipients"], "452 too many recipients", false);
        check_met(&["too"], &["too & late"], "too many, later", false);
        // Texts within others are found, too.
        check_met(&["rate limit"], &[], "message rate limit exceeded", true);
        check_met(&[], &[], "anything", true);
    }
}

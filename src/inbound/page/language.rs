//! What the page says, in which language.

use serde::Deserialize;

/// Built in; the first for those who read none of them.
const FILES: [&str; 11] = [
    include_str!("en.toml"),
    include_str!("ar.toml"),
    include_str!("de.toml"),
    include_str!("es.toml"),
    include_str!("fr.toml"),
    include_str!("it.toml"),
    include_str!("ja.toml"),
    include_str!("nl.toml"),
    include_str!("pl.toml"),
    include_str!("pt.toml"),
    include_str!("sv.toml"),
];

/// Languages of a request that are looked at.
const WISHES_MAX: usize = 20;

/// What is said. `{address}` and `{list}` in a sentence are who leaves what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    /// As RFC 5646 names it.
    pub language: String,
    #[serde(default)]
    pub right_to_left: bool,
    /// Title of the question, and the button.
    pub leave: String,
    pub ask: String,
    pub ask_list: String,
    /// Title of the answer.
    pub left: String,
    pub no_more: String,
    /// Title when a link is none of ours.
    pub invalid: String,
    pub whole_link: String,
    /// Title when it cannot be done now.
    pub later: String,
    pub try_again: String,
}

/// All languages.
pub(super) fn all() -> Vec<Words> {
    FILES.iter().map(|file| toml::from_str(file).expect("what is built in is read by a test")).collect()
}

/// The language that an `Accept-Language` wants most (RFC 9110 §12.5.4; RFC 4647 §3.4, by the first subtag); the first if it
/// wants none of them.
pub(super) fn choose<'a>(wishes: &str, known: &'a [Words]) -> &'a Words {
    let mut best: Option<(f32, &Words)> = None;
    for wish in wishes.split(',').take(WISHES_MAX) {
        let (range, parameter) = wish.split_once(';').unwrap_or((wish, ""));
        let weight = match parameter.trim().split_once('=') {
            Some((name, weight)) if name.trim().eq_ignore_ascii_case("q") => weight.trim().parse().unwrap_or(0.0),
            _ => 1.0_f32,
        };
        let primary = range.trim().split('-').next().unwrap_or_default();
        let found = known.iter().find(|words| primary == "*" || words.language.eq_ignore_ascii_case(primary));
        if let Some(found) = found
            && weight > 0.0
            && best.is_none_or(|(before, _)| weight > before)
        {
            best = Some((weight, found));
        }
    }
    best.map_or(&known[0], |(_, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_that_is_wanted_most() {
        let known = all();
        for (wishes, expected) in [
            ("", "en"),
            ("de", "de"),
            ("DE-at", "de"),
            ("pt-BR,pt;q=0.9,en;q=0.8", "pt"),
            ("en;q=0.5, fr;q=0.7", "fr"),
            ("en ; q=0.5,fr ; Q = 0.7", "fr"),
            ("xx, yy-ZZ;q=0.9, ja;q=0.1", "ja"),
            ("de;q=0", "en"),
            ("de;q=0, nl;q=0.1", "nl"),
            ("xx", "en"),
            ("*", "en"),
            ("xx, *;q=0.1", "en"),
            ("it;q=0.3,*;q=0.2", "it"),
            ("de;q=nonsense, es;q=0.2", "es"),
            ("deu", "en"),
            ("es, de", "es"),
            (",,;;==,\u{fc},sv", "sv"),
        ] {
            assert_eq!(choose(wishes, &known).language, expected, "{wishes:?}");
        }
        let many = "xx,".repeat(WISHES_MAX) + "de";
        assert_eq!(choose(&many, &known).language, "en");
    }

    #[test]
    fn all_languages_are_complete() {
        let known = all();
        let mut names: Vec<&str> = known.iter().map(|words| words.language.as_str()).collect();
        names.dedup();
        assert_eq!(names.len(), FILES.len());
        for words in known {
            let Words { language, right_to_left, leave, ask, ask_list, left, no_more, .. } = &words;
            assert_eq!(*right_to_left, language == "ar");
            for sentence in [ask, ask_list, no_more] {
                assert_eq!(sentence.matches("{address}").count(), 1, "{language}");
            }
            assert_eq!((ask_list.matches("{list}").count(), ask.contains("{list}")), (1, false), "{language}");
            for plain in [leave, left, &words.invalid, &words.whole_link, &words.later, &words.try_again] {
                assert!(!plain.is_empty() && !plain.contains(['{', '<', '&']), "{language}: {plain}");
            }
        }
    }
}

//! The operator's page for those who unsubscribe: HTML with places in it.

use std::path::Path;

use super::problem::nearest;
use super::{Problem, Severity};

/// A page larger than this is none, in octets: it is made for each that asks.
const OCTETS_MAX: u64 = 64 << 10;

/// A place of a page, where it says `{{name}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `language`: as RFC 5646 names it.
    Language,
    /// `direction`: `ltr` or `rtl`.
    Direction,
    /// `title`: in a word.
    Title,
    /// `text`: the question or answer, in a sentence.
    Text,
    /// `action`: the form with the button; nothing where there is nothing to do.
    Action,
    /// `address`: who leaves; nothing if nobody knows.
    Address,
    /// `list`: what is left; nothing if it has no name.
    List,
}

const PLACES: [(&str, Place); 7] = [
    ("language", Place::Language),
    ("direction", Place::Direction),
    ("title", Place::Title),
    ("text", Place::Text),
    ("action", Place::Action),
    ("address", Place::Address),
    ("list", Place::List),
];

/// Without these nobody knows what he is asked, or cannot say yes.
const NEEDED: [Place; 2] = [Place::Text, Place::Action];

/// HTML with places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Place(Place),
}

/// What is wrong with a page: its line, if it is in one, why, and what to do.
pub type PageProblem = (Option<usize>, String, String);

impl PageTemplate {
    /// Reads a page.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<PageTemplate, Vec<PageProblem>> {
        let (mut pieces, mut problems, mut rest, mut line) = (Vec::new(), Vec::new(), text, 1);
        while let Some((before, behind)) = rest.split_once("{{") {
            pieces.push(Piece::Text(before.into()));
            line += before.matches('\n').count();
            let ends = behind.split_once("}}").filter(|(name, _)| !name.contains(['\n', '{']));
            let Some((name, after)) = ends else {
                let why = "{{ without }} in the same line".to_owned();
                problems.push((Some(line), why, "write {{name}}, or a single brace".to_owned()));
                rest = behind;
                continue;
            };
            match PLACES.iter().find(|(known, _)| *known == name.trim()) {
                Some((_, place)) => pieces.push(Piece::Place(*place)),
                None => problems.push((Some(line), format!("there is no place {{{{{name}}}}}"), remedy(name.trim()))),
            }
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        let read = problems.is_empty();
        for (name, place) in PLACES.into_iter().filter(|(_, place)| read && NEEDED.contains(place)) {
            if !pieces.contains(&Piece::Place(place)) {
                let why = format!("it has no {{{{{name}}}}}");
                problems.push((None, why, "without it nobody can unsubscribe: write it where it belongs".to_owned()));
            }
        }
        if problems.is_empty() { Ok(PageTemplate { pieces }) } else { Err(problems) }
    }

    /// The page in `file`. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or is wrong.
    pub fn load(file: &Path) -> Result<PageTemplate, Vec<Problem>> {
        let problem = |(line, why, remedy): PageProblem| {
            let (file, key) = (file.to_owned(), "unsubscribe.page_file".to_owned());
            Problem { file, line, severity: Severity::Error, key, why, remedy }
        };
        let read = std::fs::metadata(file).and_then(|metadata| match metadata.len() > OCTETS_MAX {
            true => Err(std::io::Error::other(format!("it is larger than {} KiB", OCTETS_MAX >> 10))),
            false => std::fs::read_to_string(file),
        });
        let text = read.map_err(|why| {
            let remedy = "name a file of UTF-8 that the daemon may read".to_owned();
            vec![problem((None, format!("cannot be read: {why}"), remedy))]
        })?;
        PageTemplate::parse(&text).map_err(|problems| problems.into_iter().map(problem).collect())
    }

    /// The page, with `value` in its places.
    pub fn fill<'a>(&self, value: impl Fn(Place) -> &'a str) -> String {
        let piece = |piece: &Piece, out: &mut String| match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Place(place) => out.push_str(value(*place)),
        };
        let mut out = String::new();
        self.pieces.iter().for_each(|one| piece(one, &mut out));
        out
    }
}

fn remedy(name: &str) -> String {
    let known = PLACES.map(|(known, _)| known);
    match nearest(name, &known) {
        Some(meant) => format!("did you mean {{{{{meant}}}}}?"),
        None => format!("there are {}", known.map(|known| format!("{{{{{known}}}}}")).join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled() {
        let page = PageTemplate::parse("<p class={a}>{{text}} {{ address }}{{action}}</p>\n}}").unwrap();
        let filled = page.fill(|place| match place {
            Place::Text => "T",
            Place::Address => "{{action}}",
            _ => "A",
        });
        assert_eq!(filled, "<p class={a}>T {{action}}A</p>\n}}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |text: &str, expected: &[&str]| {
            let told: Vec<String> = match PageTemplate::parse(text) {
                Ok(_) => Vec::new(),
                Err(all) => all.iter().map(|(line, why, remedy)| format!("{line:?} {why}; {remedy}")).collect(),
            };
            assert_eq!(told, expected, "{text}");
        };
        check("{{text}}{{action}}", &[]);
        check(
            "<p>\n{{text}}\n\n{{adress}} {{action}}",
            &["Some(4) there is no place {{adress}}; did you mean {{address}}?"],
        );
        check(
            "{{action}}{{text}}\n{{zzz}}",
            &[
                "Some(2) there is no place {{zzz}}; there are {{language}}, {{direction}}, {{title}}, {{text}}, {{action}}, \
               {{address}}, {{list}}",
            ],
        );
        let open = "{{ without }} in the same line; write {{name}}, or a single brace";
        check("{{text}}{{action}}\n{{ list", &[&format!("Some(2) {open}")]);
        check("{{text\n}}{{action}}", &[&format!("Some(1) {open}")]);
        let needed = "without it nobody can unsubscribe: write it where it belongs";
        check(
            "{{title}}",
            &[&format!("None it has no {{{{text}}}}; {needed}"), &format!("None it has no {{{{action}}}}; {needed}")],
        );
    }

    #[test]
    fn a_file_is_read_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("page.html");
        let told = || PageTemplate::load(&file).map_err(|problems| problems[0].to_string());
        assert!(told().unwrap_err().contains("page.html: unsubscribe.page_file: cannot be read: "));
        for (octets, expected) in [
            ("{{text}}{{action}}".as_bytes().to_vec(), None),
            (vec![b' '; OCTETS_MAX as usize + 1], Some("it is larger than 64 KiB")),
            (b"\xff".to_vec(), Some("UTF-8")),
            (b"\n{{x}}".to_vec(), Some("page.html:2: unsubscribe.page_file: there is no place {{x}}")),
        ] {
            std::fs::write(&file, octets).unwrap();
            let found = told().err();
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.is_none_or(|found| found.contains(expected.unwrap())));
        }
    }
}

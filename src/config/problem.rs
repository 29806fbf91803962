//! What is wrong with a configuration file, in a form a person can act on.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use super::load::Places;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The daemon does not start, or keeps its old configuration.
    Error,
    /// It runs, but probably not as meant.
    Warning,
}

/// One problem: where, what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// Counted from 1; `None` if it is about the file as a whole or a key that is not in it.
    pub line: Option<usize>,
    /// Error or warning.
    pub severity: Severity,
    /// The key's path: `retry.delay_min`, `route[0].relay[1]`. Empty if there is none.
    pub key: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// An error about a key of a file, at its line.
    pub fn error(
        file: &Path,
        places: &Places,
        key: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let (key, why, remedy) = (key.into(), why.into(), remedy.into());
        Problem { file: file.into(), line: places.line(&key), severity: Severity::Error, key, why, remedy }
    }
}

/// `FILE:LINE: key: why; remedy`; a warning says `warning: ` before the key. It is one line, whatever is quoted in it.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if self.severity == Severity::Warning {
            f.write_str(" warning:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}; {}", self.why, self.remedy)
    }
}

/// Escapes what would end the line, or move a terminal's cursor: a path may hold anything.
struct OneLine<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.chars().next_back().filter(|last| last.is_control()) {
                Some(last) => write!(self.0, "{}{}", &piece[..piece.len() - last.len_utf8()], last.escape_default())?,
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// The one of `known` that `word` is probably a slip of: at most a third of its letters wrong, or its end left out.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if let Some(longer) = known.iter().find(|name| word.len() >= 3 && name.starts_with(word)) {
        return Some(longer);
    }
    let closest = known.iter().map(|name| (edits(word, name), *name)).min()?;
    (closest.0 <= closest.1.len().div_ceil(3)).then_some(closest.1)
}

/// Letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_word_that_was_meant() {
        let known = ["delay_min", "delay_max", "expire_after"];
        for (word, meant) in [
            ("delay_mim", Some("delay_min")),
            ("delaymax", Some("delay_max")),
            ("expire-after", Some("expire_after")),
            ("expires_after", Some("expire_after")),
            ("expire", Some("expire_after")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn is_told_on_one_line() {
        let problem = Problem {
            file: "p.toml".into(),
            line: Some(4),
            severity: Severity::Error,
            key: "dkim[0].key_file".into(),
            why: "cannot read /a\nb\u{1b}[2Jü".into(),
            remedy: "\tcorrect it\r".into(),
        };
        let line = r"p.toml:4: dkim[0].key_file: cannot read /a\nb\u{1b}[2Jü; \tcorrect it\r";
        assert_eq!(problem.to_string(), line);
    }
}

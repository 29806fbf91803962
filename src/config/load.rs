//! From the text of the file to [`Config`], with every problem found on the way.
//!
//! serde stops at the first thing it cannot read. So that an operator sees all of them at once, the file is read into a
//! tree that knows where everything stands; what serde refuses is noted and taken out of the tree, and it tries again.
//! What is left then, with defaults for what was taken out, goes through the checks of `check.rs`.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Problem, Severity, nearest};
use super::{Config, check};

/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// After so many there is no use in looking for more.
const PROBLEMS_MAX: usize = 100;

/// Of the mistakes in syntax only the first few are told: the rest often follow from them.
const SYNTAX_PROBLEMS_MAX: usize = 5;

impl Config {
    /// Reads and checks the file, blocking. With the configuration come the warnings, if any.
    ///
    /// # Errors
    /// Every problem, in the order of the file; at least one of them is an error. The rest are warnings.
    pub fn load(file: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        match read(file) {
            Ok(text) => Config::parse(&text, file),
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::NotFound => "create it, or name another one with --config",
                    ErrorKind::PermissionDenied => "let the user who runs this read it",
                    ErrorKind::InvalidData => "write it in UTF-8",
                    _ => "name another one with --config",
                };
                let why = format!("cannot read the file: {error}");
                Err(vec![Problem::error(file, &Places(Vec::new()), "", why, remedy)])
            }
        }
    }

    /// Reads what can be read of the file and checks nothing, blocking; the rest has its defaults. For clients on this
    /// host, which are to know where the daemon listens and need not be allowed to read the keys it reads.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn glance(file: &Path) -> std::io::Result<Config> {
        let text = read(file)?;
        let (tree, _) = DeTable::parse_recoverable(&text);
        let places = Places::of(tree.get_ref(), &text);
        Ok(deserialize(tree, &places, file).0)
    }

    /// Checks the text of a file. `file` is only for the problems' sake. Looks whether the files named in it are there.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, file: &Path) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        let (tree, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            return Err(syntax_problems(&syntax, text, file));
        }
        let places = Places::of(tree.get_ref(), text);
        let (config, mut problems) = deserialize(tree, &places, file);
        // Behind an element taken out of a list the numbers no longer say where things stand.
        let shifted: Vec<String> = problems.iter().filter_map(|problem| list_of(&problem.key)).collect();
        let checked = check::problems(&config, &places, file).into_iter();
        problems.extend(checked.filter(|problem| !shifted.iter().any(|list| problem.key.starts_with(list.as_str()))));
        problems.sort_by_key(|problem| problem.line);
        match problems.iter().any(|problem| problem.severity == Severity::Error) {
            true => Err(problems),
            false => Ok((config, problems)),
        }
    }
}

/// Reads the text of another table that an operator writes, as far as it can be read; the rest has its defaults. Nothing is
/// checked beyond keys and types.
pub fn read_table<T: DeserializeOwned + Default>(text: &str, file: &Path) -> (T, Places, Vec<Problem>) {
    let (tree, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return (T::default(), Places(Vec::new()), syntax_problems(&syntax, text, file));
    }
    let places = Places::of(tree.get_ref(), text);
    let (table, problems) = deserialize(tree, &places, file);
    (table, places, problems)
}

/// `route[` for `route[2]`.
fn list_of(key: &str) -> Option<String> {
    key.ends_with(']').then(|| key.rfind('[').map(|at| key[..=at].to_owned())).flatten()
}

fn read(file: &Path) -> std::io::Result<String> {
    if std::fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is far too large"));
    }
    std::fs::read_to_string(file)
}

fn syntax_problems(errors: &[toml::de::Error], text: &str, file: &Path) -> Vec<Problem> {
    let mut problems: Vec<Problem> = errors.iter().map(|error| syntax_problem(error, text, file)).collect();
    problems.sort_by_key(|problem| problem.line);
    problems.truncate(SYNTAX_PROBLEMS_MAX);
    problems
}

fn syntax_problem(error: &toml::de::Error, text: &str, file: &Path) -> Problem {
    let remedy = match error.message() {
        "duplicate key" => "remove one of the two",
        _ => "correct the TOML syntax here",
    };
    Problem {
        file: file.to_owned(),
        line: error.span().map(|span| line_of(text, span.start)),
        severity: Severity::Error,
        key: String::new(),
        why: error.message().replace('\n', ", "),
        remedy: remedy.into(),
    }
}

/// Reads the tree, taking out what cannot be read until the rest can.
fn deserialize<T: DeserializeOwned + Default>(
    mut tree: Spanned<DeTable<'_>>,
    places: &Places,
    file: &Path,
) -> (T, Vec<Problem>) {
    let mut problems = Vec::new();
    loop {
        let error = match T::deserialize(toml::de::Deserializer::from(tree.clone())) {
            Ok(table) => return (table, problems),
            Err(error) => error,
        };
        let place = error.span().and_then(|span| places.at(&span));
        let key = place.map(|place| place.key.clone()).unwrap_or_default();
        let told = missing(error.message()).is_some_and(|name| {
            // What is missing now may be what was taken out before.
            let lost = format!("{key}.{name}");
            problems.iter().any(|problem: &Problem| problem.key == lost)
        });
        let (why, remedy) = explain(error.message());
        let line = place.map(|place| place.line);
        // A section of the wrong kind is taken out from the inside, and refused each time.
        if !told && !problems.iter().any(|problem| problem.key == key && problem.why == why) {
            problems.push(Problem { file: file.to_owned(), line, severity: Severity::Error, key, why, remedy });
        }
        // Each round takes something out, or there is no telling what is wrong where and this is the end.
        let removed = error.span().is_some_and(|span| remove(tree.get_mut(), &span));
        if !removed || problems.len() >= PROBLEMS_MAX {
            return (T::default(), problems);
        }
    }
}

/// Takes out the innermost thing that stands at `span`. Whether there was one.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    if table.iter_mut().any(|(_, value)| remove_inside(value, span)) {
        return true;
    }
    let found = table.iter().find(|(key, value)| covers(&key.span(), span) || covers(&value.span(), span));
    let Some(key) = found.map(|(key, _)| key.clone()) else { return false };
    table.remove(&key).is_some()
}

fn remove_inside(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(array) => {
            if array.iter_mut().any(|element| remove_inside(element, span)) {
                return true;
            }
            let before = array.len();
            let rest: DeArray<'_> = std::mem::replace(array, DeArray::new())
                .into_iter()
                .filter(|element| !covers(&element.span(), span))
                .collect();
            *array = rest;
            array.len() < before
        }
        _ => false,
    }
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// serde's words made plainer, and what to do.
fn explain(message: &str) -> (String, String) {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") {
        let (name, known) = quoted.split_first().map_or(("", &[][..]), |(name, known)| (*name, known));
        let remedy = match nearest(name, known) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("remove it; known here: {}", known.join(", ")),
        };
        return ("unknown key".into(), remedy);
    }
    if message.starts_with("unknown variant") {
        let (name, known) = quoted.split_first().map_or(("", &[][..]), |(name, known)| (*name, known));
        return (format!("{name:?} is not known"), format!("use one of: {}", known.join(", ")));
    }
    if let Some(name) = missing(message) {
        return (format!("{name} is missing"), format!("add {name} = …"));
    }
    // Some of our own types say what to do.
    if let Some((why, remedy)) = message.split_once("; ") {
        return (why.into(), remedy.into());
    }
    if let Some((why, _)) = message.split_once("expected struct") {
        return (format!("{why}expected a section"), "write its keys below the section's name in brackets".into());
    }
    let why = message
        .replace("wanted string or table", "expected a word")
        .replace("expected u16", "expected a number from 0 to 65535")
        .replace("expected usize", "expected a number from 0 up")
        .replace("expected u32", "expected a number from 0 up")
        .replace("expected u64", "expected a number from 0 up")
        .replace('\n', ", ");
    (why, remedy_for(message).into())
}

/// The name in serde's "missing field `name`".
fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

fn remedy_for(message: &str) -> &'static str {
    let hints = [
        ("wanted string or table", "write it in quotes"),
        ("a duration", "write it as \"90s\", \"5m\", \"4h\" or \"4d\""),
        ("time unit", "write it as \"90s\", \"5m\", \"4h\" or \"4d\""),
        ("number at", "write it as \"90s\", \"5m\", \"4h\" or \"4d\""),
        ("a size", "write it as \"64KiB\", \"50MiB\" or a number of octets"),
        ("invalid value: integer", "write a number in that range"),
        ("expected a boolean", "write true or false, without quotes"),
        ("socket address", "write it as \"IP:PORT\", as in \"127.0.0.1:2525\" or \"[::1]:2525\""),
        ("a sequence", "write it as a list: [ … ]"),
        ("expected a map", "write it as { name = number, … }"),
        ("expected a string", "write it in quotes"),
        ("expected a borrowed string", "write it in quotes"),
        ("path string", "write it in quotes"),
        ("expected usize", "write a number without quotes"),
        ("expected u16", "write a number without quotes"),
        ("expected u32", "write a number without quotes"),
        ("expected u64", "write a number without quotes"),
        ("IP address syntax", "write it as \"192.0.2.1\" or \"2001:db8::1\"; a network as \"10.0.0.0/8\""),
        ("domain", "write a domain name, as in \"example.com\""),
    ];
    hints.iter().find(|(part, _)| message.contains(part)).map_or("correct it", |(_, remedy)| remedy)
}

/// Where every key and list element of a file stands.
#[derive(Debug)]
pub struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    /// `delivery.timeout.connect`, `route[1].relay[0]`.
    key: String,
    line: usize,
    spans: [Range<usize>; 2],
}

impl Places {
    /// Of a file that has been read before, for who finds a problem later; blocking. None, if it cannot be read any more.
    pub fn read(file: &Path) -> Places {
        let text = read(file).unwrap_or_default();
        let (tree, _) = DeTable::parse_recoverable(&text);
        Places::of(tree.get_ref(), &text)
    }

    fn of(table: &DeTable<'_>, text: &str) -> Places {
        let mut places = Places(Vec::new());
        places.add_table(table, "", text);
        places
    }

    fn add_table(&mut self, table: &DeTable<'_>, path: &str, text: &str) {
        for (name, value) in table.iter() {
            let key = if path.is_empty() { name.get_ref().to_string() } else { format!("{path}.{}", name.get_ref()) };
            self.add_value(value, &key, text);
            let spans = [name.span(), value.span()];
            self.0.push(Place { key, line: line_of(text, name.span().start), spans });
        }
    }

    fn add_value(&mut self, value: &Spanned<DeValue<'_>>, path: &str, text: &str) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(table, path, text),
            DeValue::Array(array) => {
                for (index, element) in array.iter().enumerate() {
                    let key = format!("{path}[{index}]");
                    self.add_value(element, &key, text);
                    let spans = [element.span(), element.span()];
                    self.0.push(Place { key, line: line_of(text, element.span().start), spans });
                }
            }
            _ => {}
        }
    }

    /// The innermost place at `span`: inner ones were added first.
    fn at(&self, span: &Range<usize>) -> Option<&Place> {
        self.0.iter().find(|place| place.spans.iter().any(|one| covers(one, span)))
    }

    /// Whether the key is in the file, readable or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|place| place.key == key)
    }

    /// The line of a key; of what it stands in if it is not in the file itself.
    pub fn line(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some(place) = self.0.iter().find(|place| place.key == key) {
                return Some(place.line);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    memchr::memchr_iter(b'\n', &text.as_bytes()[..at.min(text.len())]).count() + 1
}

//! `config/posthaste.toml` shows every key with its default.

use std::collections::BTreeSet;
use std::path::Path;

use posthaste::config::Config;

const FILE: &str = include_str!("../config/posthaste.toml");

/// The file with the keys that have no default uncommented: `# key = …` and `# [[table]]`.
fn with_optional_keys() -> String {
    let setting = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let uncomment = |line: &'static str| match line.strip_prefix("# ") {
        Some(rest) if setting(rest) || rest.starts_with("[[") => rest,
        _ => line,
    };
    FILE.lines().map(uncomment).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_values_shown_are_the_defaults() {
    assert_eq!(toml::from_str::<Config>(FILE).expect("the file is good"), Config::default());
    // The checks draw at most what depends on the host this runs on.
    let problems = match Config::parse(FILE, Path::new("posthaste.toml")) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    assert!(problems.iter().all(|problem| problem.key == "hostname"), "{problems:?}");
}

#[test]
fn every_key_is_shown_and_exists() {
    let text = with_optional_keys();
    let config: Config = toml::from_str(&text).expect("every key in the file exists");
    assert!(config.hostname.is_some() && config.route.len() == 1 && config.pool.len() == 1 && config.limit.len() == 1);
    let shown = keys_in(&text.parse().expect("TOML"), "");
    assert_eq!(shown, keys_known(), "left: shown in the file; right: known to the code");
}

#[test]
fn every_key_is_explained() {
    let lines: Vec<&str> = FILE.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let name = line.trim_start_matches("# ").split(" = ").next().unwrap_or_default();
        let is_key = line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if is_key {
            let before = lines[at - 1];
            assert!(before.starts_with("# ") && before.ends_with('.'), "line {}: {line}", at + 1);
        }
    }
}

/// Lists of tables.
const LISTS: [&str; 8] = ["route", "source", "pool", "egress", "dkim", "warmup", "limit", "reports.stream"];

/// Tables whose keys are the operator's own.
const FREE: [&str; 2] = ["pool.sources", "feedback.bounce_domains"];

/// `retry.delay_min`, `route.match`, …: every key of a table and of those inside it.
fn keys_in(table: &toml::Table, path: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (name, value) in table {
        let key = format!("{path}{name}");
        let inner = match value {
            toml::Value::Table(table) if name != "match" => Some(table),
            toml::Value::Array(array) => array.first().and_then(toml::Value::as_table),
            _ => None,
        };
        match inner {
            Some(table) if name != "match" && !FREE.contains(&key.as_str()) => {
                keys.extend(keys_in(table, &format!("{key}.")))
            }
            Some(_) | None => {
                keys.insert(key);
            }
        }
    }
    keys
}

/// Every key of [`Config`]. serde names all that a table may have when it refuses one: that also finds optional keys,
/// which no value shows.
fn keys_known() -> BTreeSet<String> {
    fn collect(section: &str, keys: &mut BTreeSet<String>) {
        let header = match section {
            "" => String::new(),
            list if LISTS.contains(&list) => format!("[[{section}]]\n"),
            _ => format!("[{section}]\n"),
        };
        let refused = toml::from_str::<Config>(&format!("{header}no_such_key = 1\n")).expect_err("no such key");
        let names: Vec<&str> = refused.message().split('`').skip(1).step_by(2).collect();
        assert_eq!(names[0], "no_such_key", "{refused}");
        for name in &names[1..] {
            let key = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            // A section refuses a number where it expects its own keys.
            let as_number = toml::from_str::<Config>(&format!("{header}{name} = 1\n"));
            // What a row is about stands in one line and is the same wherever there is one.
            let is_section =
                *name != "match" && as_number.is_err_and(|error| error.message().contains("expected struct"));
            if is_section || LISTS.contains(&key.as_str()) {
                collect(&key, keys);
            } else {
                keys.insert(key);
            }
        }
    }
    let mut keys = BTreeSet::new();
    collect("", &mut keys);
    keys
}

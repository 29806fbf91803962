//! A module uses only modules on later lines of this list.

use std::fs;
use std::path::{Path, PathBuf};

/// From what conducts to what everybody may use. Modules on one line do not know one another, but for the last line.
const ORDER: [&[&str]; 12] = [
    &["cli"],
    &["demo"],
    &["daemon"],
    &["inbound"],
    &["submission", "admin"],
    &["queue"],
    &["routing", "shaping", "signing", "delivery", "feedback"],
    &["spool", "suppression", "access", "events"],
    &["ledger"],
    &["log"],
    &["config"],
    &["mail", "clock", "telemetry"],
];

#[test]
fn dependencies_point_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 10, "looking in the wrong place: {files:?}");
    let mut broken = Vec::new();
    for file in files {
        let path = file.strip_prefix(&source).expect("found below it");
        let text = fs::read_to_string(&file).expect("readable");
        broken.extend(violations(path, &text));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a file, named from `src`, uses against the rule. Tests may use what they want.
fn violations(path: &Path, text: &str) -> Vec<String> {
    let parts: Vec<String> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let module = parts[0].as_str();
    if matches!(module, "lib" | "main") || parts.iter().any(|part| part == "tests") {
        return Vec::new();
    }
    let Some(line) = line_of(module) else {
        return vec![format!("src/{}:1: {module} has no place in the order", path.display())];
    };
    // How many `super::` lead to the crate's root from here.
    let depth = parts.len() - usize::from(parts.last().is_some_and(|last| last == "mod"));
    let mut broken = Vec::new();
    for (at, used) in uses(&without_comments_and_tests(text), depth) {
        let allowed = used == module
            || match line_of(&used) {
                Some(other) => other > line || (other == line && line == ORDER.len() - 1),
                None => false,
            };
        if !allowed {
            let rule = format!("{module} may not use {used}: it stands on the same or an earlier line of the order");
            broken.push(format!("src/{}:{at}: {rule}", path.display()));
        }
    }
    broken
}

fn line_of(module: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.contains(&module))
}

/// Lines keep their numbers. An inline `mod tests` under `#[cfg(test)]` ends a file.
fn without_comments_and_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |at: usize| {
        let next = lines.get(at + 1).map_or("", |line| line.trim());
        lines[at].trim() == "#[cfg(test)]" && next.starts_with("mod ") && !next.ends_with(';')
    };
    let end = (0..lines.len()).find(|at| is_tests(*at)).unwrap_or(lines.len());
    lines[..end].iter().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// The modules that stand behind `crate::`, or behind enough `super::` to mean the same, with their lines.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let root = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in ["crate::", root.as_str()] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(names(&code[at + start.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The first names of a path: one, or those of a group in braces.
fn names(path: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut names, mut nesting, mut fresh) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => nesting += 1,
            '}' if nesting == 0 => break,
            '}' => nesting -= 1,
            ',' if nesting == 0 => fresh = true,
            c if nesting == 0 && fresh && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

#[track_caller]
fn check(path: &str, text: &str, expected: &[&str]) {
    let broken = violations(Path::new(path), text);
    let places: Vec<&str> = broken.iter().map(|one| one.split(": it stands").next().unwrap_or_default()).collect();
    assert_eq!(places, expected, "{text}");
}

#[test]
fn the_check_sees_what_it_should() {
    check("queue/mod.rs", "use crate::signing::Signer;\nuse crate::{mail::{Domain, Reply}, spool};\n", &[]);
    check("mail/envelope.rs", "use crate::clock::Timestamp;\n", &[]);
    check("signing/mod.rs", "use crate::queue::Queue;", &["src/signing/mod.rs:1: signing may not use queue"]);
    check(
        "signing/mod.rs",
        "\nuse crate::{\n    mail,\n    delivery::{Session, x},\n    config,\n};",
        &["src/signing/mod.rs:2: signing may not use delivery"],
    );
    check("spool/a/b.rs", "let x = crate::queue::f();", &["src/spool/a/b.rs:1: spool may not use queue"]);
    check("spool/a.rs", "use super::b;\nuse super::super::queue;", &["src/spool/a.rs:2: spool may not use queue"]);
    check("clock.rs", "use super::queue::x;", &["src/clock.rs:1: clock may not use queue"]);
    check("mail/mod.rs", "use crate::config::Config;", &["src/mail/mod.rs:1: mail may not use config"]);
    check("stray.rs", "", &["src/stray.rs:1: stray has no place in the order"]);
    check(
        "log/mod.rs",
        "//! see [`crate::queue`]\nfn f() {} // crate::queue\n#[cfg(test)]\nmod tests { use crate::queue; }",
        &[],
    );
    check("log/a.rs", "#[cfg(test)]\nmod tests;\nuse crate::queue;", &["src/log/a.rs:3: log may not use queue"]);
    check("log/tests.rs", "use crate::queue;", &[]);
    check("log/mod.rs", "posthaste_crate::queue; $crate::queue;", &[]);
    check("cli/demo.rs", "use crate::demo;", &[]);
    check("demo/mod.rs", "use crate::daemon;", &[]);
}

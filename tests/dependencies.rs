//! The crates that are built: their licences and names against `deny.toml`, and versions that must not slip.
//!
//! `cargo deny` does this better, but is not everywhere; this needs nothing but cargo.

use std::collections::BTreeSet;
use std::process::Command;

struct Crate {
    name: String,
    version: String,
    licence: String,
}

/// All that is built for this host, with the features that are on.
fn built() -> Vec<Crate> {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{l}"];
    let output = Command::new(env!("CARGO")).args(tree).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("cargo built this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let read = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned());
        // `(*)`: shown in full further up.
        Some(Crate { name, version, licence: licence.trim_end_matches(" (*)").to_owned() })
    };
    lines.into_iter().map(|line| read(line).unwrap_or_else(|| panic!("cargo tree said {line:?}"))).collect()
}

fn deny() -> toml::Table {
    include_str!("../deny.toml").parse().expect("TOML")
}

#[test]
fn licences_are_allowed() {
    let deny = deny();
    let allowed: Vec<&str> =
        deny["licenses"]["allow"].as_array().expect("a list").iter().filter_map(toml::Value::as_str).collect();
    let built = built();
    assert!(built.len() > 50, "looking in the wrong place");
    let refused: Vec<String> = built
        .iter()
        .filter(|one| !satisfied(&one.licence, &allowed))
        .map(|one| format!("{} {}: {:?}", one.name, one.version, one.licence))
        .collect();
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
}

/// `[sources]` of `deny.toml`: one registry, nothing from a repository or another place.
#[test]
fn every_crate_comes_from_one_registry() {
    let lock: toml::Table = include_str!("../Cargo.lock").parse().expect("TOML");
    let packages = lock["package"].as_array().expect("a list");
    let sources: BTreeSet<&str> =
        packages.iter().filter_map(|package| package.get("source")).filter_map(toml::Value::as_str).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert!(sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn banned_crates_are_not_built_and_pinned_ones_are_alone() {
    let deny = deny();
    let built = built();
    let versions = |name: &str| -> Vec<&str> {
        let mut versions: Vec<&str> =
            built.iter().filter(|one| one.name == name).map(|one| one.version.as_str()).collect();
        versions.dedup();
        versions
    };
    for banned in deny["bans"]["deny"].as_array().expect("a list") {
        let name = banned["crate"].as_str().expect("a name");
        assert!(versions(name).is_empty(), "{name} is built; see who asks for it: cargo tree --invert {name}");
    }
    // The next ones want a newer Rust, or change what we work around.
    assert_eq!(versions("mail-auth"), ["0.13.3"]);
    assert_eq!(versions("mail-parser"), ["0.11.9"]);
    assert_eq!(versions("mail-send"), ["0.7.0"]);
    assert_eq!(versions("aws-lc-sys").len(), 1);
}

/// Whether the allowed licences satisfy an SPDX expression. The old `/` means `OR`.
fn satisfied(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let held = any_of(&mut tokens, allowed);
    held && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, allowed: &[&str]) -> bool {
    let mut held = all_of(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        held |= all_of(tokens, allowed);
    }
    held
}

fn all_of(tokens: &mut Tokens<'_>, allowed: &[&str]) -> bool {
    let mut held = one_of(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        held &= one_of(tokens, allowed);
    }
    held
}

fn one_of(tokens: &mut Tokens<'_>, allowed: &[&str]) -> bool {
    match tokens.next() {
        Some("(") => {
            let held = any_of(tokens, allowed);
            tokens.next_if_eq(&")").is_some() && held
        }
        Some(name) => match tokens.next_if_eq(&"WITH").and_then(|_| tokens.next()) {
            Some(exception) => allowed.contains(&format!("{name} WITH {exception}").as_str()),
            None => allowed.contains(&name),
        },
        None => false,
    }
}

#[test]
fn expressions_mean_what_they_say() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("(GPL-3.0 OR MIT) AND Apache-2.0", true),
        ("GPL-3.0 AND Apache-2.0 OR MIT", true),
        ("GPL-3.0 AND (Apache-2.0 OR MIT)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH Other-exception", false),
        ("", false),
        ("MIT )", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}

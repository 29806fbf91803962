//! Replays the seeds of every fuzz target, and what fuzzing has found, through the function that the target runs.

use std::fs;
use std::path::Path;

use posthaste::probe::TARGETS;

/// Larger ones belong nowhere in a repository.
const SEED_MAX: u64 = 4096;

#[test]
fn every_seed_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in TARGETS {
        let dir = root.join("seeds").join(name);
        let seeds = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut replayed = 0;
        for seed in seeds {
            let path = seed.expect("readable").path();
            let octets = fs::read(&path).expect("readable");
            assert!(octets.len() as u64 <= SEED_MAX, "{} is too large", path.display());
            let held = std::panic::catch_unwind(|| target(&octets));
            assert!(held.is_ok(), "{}: see above", path.display());
            replayed += 1;
        }
        assert!(replayed >= 3, "{} seeds in {}", replayed, dir.display());
        assert!(root.join("fuzz_targets").join(name).with_extension("rs").exists(), "{name} has no fuzz target");
    }
}

#[test]
fn every_folder_and_program_belongs_to_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    let table = fs::read_to_string(root.join("README.md")).expect("readable");
    let told = |name: &str| {
        let first = |row: &str| row.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{name}`")));
        table.lines().any(|row| row.starts_with('|') && first(row))
    };
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml does not build {name}");
        assert!(told(name), "fuzz/README.md does not say what must hold for {name}");
    }
    for dir in ["seeds", "fuzz_targets"] {
        for entry in fs::read_dir(root.join(dir)).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            assert!(TARGETS.iter().any(|target| target.0 == name), "{} belongs to no target", path.display());
        }
    }
}

//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use std::path::Path;

use super::Config;

/// The text of a file: every problem is told on one line and names a line that is there; what is accepted prints, and
/// parses to what prints the same.
pub fn config(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    // Files that are named are opened; these are not made for it.
    if text.contains("_file") && (text.contains("/dev") || text.contains("/proc")) {
        return;
    }
    let file = Path::new("posthaste.toml");
    let lines = text.split('\n').count();
    match Config::parse(text, file) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|one| check(one, lines));
            let printed = toml::to_string(&config).expect("a configuration prints");
            match Config::parse(&printed, file) {
                Ok((same, _)) => assert_eq!(toml::to_string(&same).expect("as above"), printed),
                Err(problems) => panic!("{printed}\n{problems:?}"),
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().for_each(|one| check(one, lines));
        }
    }
}

fn check(problem: &super::Problem, lines: usize) {
    let printed = problem.to_string();
    assert!(!printed.contains('\n'), "{printed:?}");
    assert!(!problem.why.is_empty() && !problem.remedy.is_empty(), "{printed}");
    assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{printed}");
}

//! Names of providers, which only profiles know.

use std::path::Path;

use super::Check;
use crate::config::problem::nearest;
use crate::config::{Config, Places, Problem};

impl Config {
    /// Names of providers in `[[warmup]]` and `[[limit]]` that are not among `known`, the profiles there are: what they are
    /// about never comes. Reads the file again for the lines, blocking; unreadable, it has none.
    pub fn unknown_providers(&self, file: &Path, known: &[&str]) -> Vec<Problem> {
        let places = Places::read(file);
        let mut check = Check { places: &places, file, problems: Vec::new() };
        let plans = self.warmup.iter().map(|plan| &plan.provider).enumerate();
        let limits = self.limit.iter().map(|limit| &limit.scope.provider).enumerate();
        let plans = plans.map(|(index, name)| (format!("warmup[{index}].provider"), name));
        let limits = limits.map(|(index, name)| (format!("limit[{index}].match.provider"), name));
        for (key, name) in plans.chain(limits) {
            let Some(name) = name else { continue };
            if !known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                let remedy = match nearest(name, known) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => "write one in shaping.providers_dir, or correct the name".into(),
                };
                check.error(&key, format!("there is no provider {name:?}"), remedy);
            }
        }
        check.problems
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    #[test]
    fn names_the_line_of_a_provider_that_nobody_knows() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.toml");
        let text = "hostname = \"mta.example.net\"\n[[warmup]]\nsource = \"default\"\nprovider = \"gogle\"\n\
                    recipients_per_day = [5]\n[[limit]]\nmatch = { provider = \"Google\" }\nmessages = \"1/s\"\n\
                    [[limit]]\nmatch = { provider = \"nobody\" }\nmessages = \"1/s\"\n";
        std::fs::write(&file, text).unwrap();
        let (config, warnings) = Config::parse(text, Path::new("f.toml")).unwrap();
        assert_eq!(warnings, []);
        let told = config.unknown_providers(&file, &["google", "yahoo"]);
        let told: Vec<String> = told.iter().map(|p| format!("{:?} {} {}", p.line, p.key, p.remedy)).collect();
        let expected = [
            "Some(4) warmup[0].provider did you mean \"google\"?",
            "Some(10) limit[1].match.provider write one in shaping.providers_dir, or correct the name",
        ];
        assert_eq!(told, expected);
    }
}

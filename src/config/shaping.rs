//! `[shaping]`: where what is known of receivers is kept.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Problem, Severity};

/// A profile larger than this is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `[shaping]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShapingConfig {
    /// Folder of provider profiles (`*.toml`) that are laid over those built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers_dir: Option<PathBuf>,
}

impl ShapingConfig {
    /// The profiles in the folder, by name, as they stand on disk; none if no folder is set. Blocking.
    ///
    /// # Errors
    /// The folder, or each file that cannot be read.
    pub fn provider_files(&self) -> Result<Vec<(PathBuf, String)>, Vec<Problem>> {
        let Some(dir) = &self.providers_dir else { return Ok(Vec::new()) };
        let entries = std::fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(|why| vec![problem(dir, &why, "create it, or correct shaping.providers_dir")])?;
        let mut files: Vec<PathBuf> =
            entries.into_iter().map(|entry| entry.path()).filter(|path| is_profile(path)).collect();
        files.sort();
        let (mut read_files, mut problems) = (Vec::new(), Vec::new());
        for file in files {
            match read(&file) {
                Ok(text) => read_files.push((file, text)),
                Err(why) => problems.push(problem(&file, &why, "make it readable for the daemon")),
            }
        }
        if problems.is_empty() { Ok(read_files) } else { Err(problems) }
    }
}

/// `NAME.toml`; not what editors leave behind (`.NAME.toml.swp`, `NAME.toml~`).
fn is_profile(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

fn read(file: &Path) -> std::io::Result<String> {
    if std::fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is far too large"));
    }
    std::fs::read_to_string(file)
}

fn problem(file: &Path, why: &std::io::Error, remedy: &str) -> Problem {
    let (file, key) = (file.to_owned(), "shaping.providers_dir".to_owned());
    let why = format!("cannot be read: {why}");
    Problem { file, line: None, severity: Severity::Error, key, why, remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_profiles_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ShapingConfig::default().provider_files(), Ok(Vec::new()));
        let config = ShapingConfig { providers_dir: Some(dir.path().to_owned()) };
        assert_eq!(config.provider_files(), Ok(Vec::new()));
        for (name, text) in
            [("b.toml", "two"), ("a.toml", "one"), (".c.toml", "no"), ("d.toml~", "no"), ("README", "no")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let read: Vec<String> = config.provider_files().unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(read, ["one", "two"]);
        let gone = ShapingConfig { providers_dir: Some(dir.path().join("gone")) };
        let problems = gone.provider_files().unwrap_err();
        assert!(problems.len() == 1 && problems[0].to_string().contains("gone: shaping.providers_dir: cannot be read"));
    }
}

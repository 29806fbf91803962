//! The name this host goes by.

use super::Config;
use crate::mail::Domain;

/// Why there is no usable host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system's host name {name:?} cannot be used ({why}); set hostname in the configuration")]
pub struct HostnameError {
    /// What the system said.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

impl Config {
    /// The name for EHLO, Received and reports: the one configured, else the system's.
    ///
    /// # Errors
    /// If none is configured and the system's is no domain name.
    pub fn hostname(&self) -> Result<Domain, HostnameError> {
        resolve(self.hostname.as_ref(), &system_name())
    }
}

pub(super) fn system_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(super) fn resolve(configured: Option<&Domain>, system: &str) -> Result<Domain, HostnameError> {
    match configured {
        Some(name) => Ok(name.clone()),
        None => system.parse().map_err(|why| HostnameError { name: system.to_owned(), why: format!("{why}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_name_comes_first() {
        let name: Domain = "mta1.example.net".parse().expect("a name");
        assert_eq!(resolve(Some(&name), "other"), Ok(name));
        assert_eq!(resolve(None, "host.example").map(|name| name.to_string()), Ok("host.example".into()));
        let error = resolve(None, "my_host!").expect_err("no name").to_string();
        assert!(error.contains("\"my_host!\"") && error.contains("set hostname"), "{error}");
        assert!(resolve(None, "").is_err());
        assert!(!system_name().is_empty());
    }
}

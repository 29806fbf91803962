//! A name and a password, kept out of logs.

use std::fmt;

/// What a relay asks for in AUTH.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The account.
    pub username: String,
    /// Its secret; never printed.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

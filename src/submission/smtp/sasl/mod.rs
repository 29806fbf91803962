//! The server's side of SASL (RFC 4422), without I/O: what a client's response means, and what to say to it.
//!
//! PLAIN (RFC 4616), LOGIN (a draft that never became a standard, and which every client speaks), SCRAM-SHA-256 and, over
//! TLS 1.3, SCRAM-SHA-256-PLUS ([`scram`]). An [`Exchange`] takes one response after the other, already decoded, and
//! each gives a [`Turn`]. What takes time, or is secret, is asked of an [`Authority`].
//!
//! Names and passwords are compared octet by octet, without the preparation of RFC 4013: what an operator typed into
//! `posthaste tenant` is what a client must send.

pub(super) mod example;
mod scram;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use self::scram::{Challenged, Scram};
use crate::access::{self, Access, AccessError, Principal};

/// The answer of an [`Authority`], which may take its time.
pub(in super::super) type Checking = Pin<Box<dyn Future<Output = Result<Verified, AccessError>> + Send>>;

/// A client whose credentials are right.
#[derive(Debug)]
pub(in super::super) struct Verified {
    /// Who it is.
    pub(in super::super) principal: Arc<Principal>,
    /// What it must be shown before it believes us, and answer with nothing: SCRAM's proof that we know it, too.
    pub(in super::super) last_words: Option<Vec<u8>>,
}

/// Who knows the users. The daemon's is [`Access`].
pub(in super::super) trait Authority: fmt::Debug + Send + Sync {
    /// Whether the password is the user's. Slow when it is not.
    fn password(self: Arc<Self>, user: String, password: String, client: IpAddr) -> Checking;

    /// What SCRAM needs to know of a user; a user that does not exist looks like one whose proof never fits.
    fn scram(&self, user: &str) -> Box<dyn ScramKeys>;

    /// Who shows a certificate with these names, from an authority we believe.
    fn certificate(&self, names: &[String]) -> Result<Arc<Principal>, AccessError>;

    /// Printable characters without comma, never the same twice.
    fn nonce(&self) -> String;
}

/// A user as SCRAM knows it.
pub(in super::super) trait ScramKeys: Send {
    /// The salt of its password.
    fn salt(&self) -> &[u8];

    /// How often it is hashed.
    fn iterations(&self) -> u32;

    /// Whether the proof fits; with it comes the server's signature. Slow when it does not.
    fn verify(self: Box<Self>, auth_message: Vec<u8>, proof: Vec<u8>, client: IpAddr) -> Checking;
}

impl Authority for Access {
    fn password(self: Arc<Self>, user: String, password: String, client: IpAddr) -> Checking {
        Box::pin(async move {
            let principal = self.by_password(&user, &password, Some(client)).await?;
            Ok(Verified { principal, last_words: None })
        })
    }

    fn scram(&self, user: &str) -> Box<dyn ScramKeys> {
        Box::new(Access::scram(self, user))
    }

    fn certificate(&self, names: &[String]) -> Result<Arc<Principal>, AccessError> {
        self.by_certificate(names)
    }

    fn nonce(&self) -> String {
        let mut octets = [0; 18];
        aws_lc_rs::rand::fill(&mut octets).expect("the system has random numbers");
        BASE64_STANDARD.encode(octets)
    }
}

impl ScramKeys for access::Scram {
    fn salt(&self) -> &[u8] {
        &self.salt
    }

    fn iterations(&self) -> u32 {
        self.iterations
    }

    fn verify(self: Box<Self>, auth_message: Vec<u8>, proof: Vec<u8>, client: IpAddr) -> Checking {
        Box::pin(async move {
            let (principal, signature) = access::Scram::verify(&self, &auth_message, &proof, Some(client)).await?;
            let last_words = format!("v={}", BASE64_STANDARD.encode(signature));
            Ok(Verified { principal, last_words: Some(last_words.into_bytes()) })
        })
    }
}

/// How to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// RFC 4616.
    Plain,
    /// User and password, one after the other.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// RFC 7677, bound to the TLS session (RFC 9266).
    ScramSha256Plus,
}

impl Mechanism {
    /// Strongest first, as clients that choose by themselves read the list.
    const ALL: [Mechanism; 4] =
        [Mechanism::ScramSha256Plus, Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

    /// The registered name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// Those to offer. `bound`: the TLS session can be bound to.
    pub(super) fn offered(bound: bool) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |mechanism| bound || *mechanism != Mechanism::ScramSha256Plus)
    }
}

/// What an exchange knows of its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    /// Where the client is.
    pub(super) client: IpAddr,
    /// `tls-exporter` of the TLS session (RFC 9266 §4.2); `None`: there is nothing to bind to.
    pub(super) binding: Option<&'a [u8; 32]>,
    /// Who knows the users.
    pub(super) authority: &'a Arc<dyn Authority>,
}

/// An exchange that waits for a response.
pub(super) struct Exchange(State);

enum State {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    Scram(Scram),
    ScramChallenged(Challenged),
    Farewell(Arc<Principal>),
}

/// What follows on a response.
pub(super) enum Turn {
    /// Send this, and wait for the next response.
    Challenge(Vec<u8>, Exchange),
    /// Wait for the authority's word.
    Check(Checking),
    /// It is over, and well.
    Welcome(Arc<Principal>),
    /// The response is not what the mechanism asks for, and why.
    Malformed(&'static str),
    /// The response is well-formed and wrong all the same.
    Wrong(&'static str),
}

impl Exchange {
    /// Begins. `initial` is the response that came with the command, decoded.
    pub(super) fn begin(mechanism: Mechanism, initial: Option<Vec<u8>>, setting: Setting<'_>) -> Turn {
        let (challenge, state) = match mechanism {
            Mechanism::Plain => (&b""[..], State::Plain),
            Mechanism::Login => (&b"Username:"[..], State::LoginUser),
            Mechanism::ScramSha256 => (&b""[..], State::Scram(Scram { plus: false })),
            Mechanism::ScramSha256Plus => (&b""[..], State::Scram(Scram { plus: true })),
        };
        match initial {
            Some(response) => Exchange(state).take(response, setting),
            None => Turn::Challenge(challenge.into(), Exchange(state)),
        }
    }

    /// After the last words were sent.
    pub(super) fn farewell(principal: Arc<Principal>) -> Exchange {
        Exchange(State::Farewell(principal))
    }

    /// Takes the client's response.
    pub(super) fn take(self, response: Vec<u8>, setting: Setting<'_>) -> Turn {
        match self.0 {
            State::Plain => plain(response, setting),
            State::LoginUser => match text(response) {
                Some(user) if !user.is_empty() => {
                    Turn::Challenge(b"Password:".into(), Exchange(State::LoginPassword { user }))
                }
                _ => Turn::Malformed("the user name is empty or no text"),
            },
            State::LoginPassword { user } => match text(response) {
                Some(password) if !password.is_empty() => {
                    Turn::Check(Arc::clone(setting.authority).password(user, password, setting.client))
                }
                _ => Turn::Malformed("the password is empty or no text"),
            },
            State::Scram(scram) => match scram.first(&response, setting) {
                Ok((challenge, challenged)) => Turn::Challenge(challenge, Exchange(State::ScramChallenged(challenged))),
                Err(turn) => turn,
            },
            State::ScramChallenged(challenged) => challenged.last(&response, setting),
            State::Farewell(principal) if response.is_empty() => Turn::Welcome(principal),
            State::Farewell(_) => Turn::Malformed("nothing is left to be said"),
        }
    }
}

/// `authzid NUL authcid NUL passwd` (RFC 4616 §2).
fn plain(response: Vec<u8>, setting: Setting<'_>) -> Turn {
    let shape = Turn::Malformed("PLAIN is an empty name, the user and the password, each behind a NUL");
    let Some(response) = text(response) else { return shape };
    let mut parts = response.split('\0');
    let (Some(acting), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return shape;
    };
    if user.is_empty() || password.is_empty() {
        return shape;
    }
    if !acting.is_empty() && acting != user {
        return Turn::Wrong(NOT_FOR_OTHERS);
    }
    Turn::Check(Arc::clone(setting.authority).password(user.into(), password.into(), setting.client))
}

/// What a client hears that would act as somebody else.
const NOT_FOR_OTHERS: &str = "nobody may act as another user";

fn text(octets: Vec<u8>) -> Option<String> {
    String::from_utf8(octets).ok()
}

impl fmt::Debug for Exchange {
    /// Without what the client said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

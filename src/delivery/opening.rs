//! The dialogue from the greeting to the first transaction, on any stream.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::auth;
use super::capabilities::Capabilities;
use super::client::{Client, Stage, Target};
use super::connection::{Connection, SessionFacts};
use super::data::Outbox;
use super::memory::Quirks;
use super::reply::{EHLO_TEXT_MAX, Garbage, ReplyRef, TEXT_MAX};
use super::tls;
use super::wire::{Broken, Io, Stream, Wire};
use crate::clock::{Clock, Instant};
use crate::config::Credentials;
use crate::mail::{Blame, EnhancedCode, Failure, Origin, TlsFacts};

/// What to do about TLS in one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    Never,
    IfOffered,
    Always,
}

/// One attempt that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) stage: Stage,
    pub(super) failure: Failure,
    /// The handshake broke; without TLS it may work.
    pub(super) without_tls: bool,
}

impl Refusal {
    pub(super) fn new(stage: Stage, failure: Failure) -> Refusal {
        Refusal { stage, failure, without_tls: false }
    }

    fn broken(stage: Stage) -> impl FnOnce(Broken) -> Refusal {
        move |broken| Refusal::new(stage, broken.into_failure())
    }
}

impl Client {
    /// The dialogue up to the first transaction, on any stream; `address` is what the receiver sees of us, if known.
    pub(super) async fn open<S: Io>(
        &self,
        stream: S,
        target: &Target,
        address: Option<IpAddr>,
        upgrade: Upgrade,
        start: Instant,
    ) -> Result<Connection<S>, Refusal> {
        let mut wire = Wire::new(stream);
        let greeting = self.greeting(&mut wire).await?;
        let mut ehlo = self.ehlo(&mut wire, target).await?;
        let connect = Clock.instant() - start;
        let tls = self.upgrade(&mut wire, target, upgrade, &ehlo.capabilities).await?;
        let mut handshake = Duration::ZERO;
        if tls.is_some() {
            handshake = Clock.instant() - start - connect;
            self.shared.stages.tls.observe(handshake.as_secs_f64());
            // RFC 3207 §4.2: what was said in the clear is forgotten. A server may refuse our part of a TLS 1.3 handshake
            // only now, and some do nothing but drop the connection.
            ehlo = self
                .ehlo(&mut wire, target)
                .await
                .map_err(|refusal| Refusal { without_tls: refusal.failure.origin == Origin::Local, ..refusal })?;
        }
        if let Some(credentials) = &target.credentials {
            self.log_in(&mut wire, target, credentials, &ehlo.capabilities, tls.is_some()).await?;
        }
        self.shared.stages.connect.observe(connect.as_secs_f64());
        let quirks = self.shared.quirks(target, Clock.instant());
        let facts = SessionFacts {
            host: target.host.clone(),
            address: target.address,
            source: Arc::clone(&target.local.source),
            source_address: address,
            tls,
            greeting,
            capabilities: ehlo.keywords,
            connect,
            handshake,
        };
        Ok(Connection::new(wire, without_quirks(ehlo.capabilities, quirks), facts, self.shared.clone()))
    }

    async fn greeting<S: Io>(&self, wire: &mut Wire<S>) -> Result<String, Refusal> {
        let mut nothing = Outbox::plain(&[]);
        let limit = self.shared.timeouts.greeting;
        let reply = wire.answer(&mut nothing, "CONNECT", limit, limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Greeting))?;
        match reply.code {
            200..=299 => Ok(reply.text.to_owned()),
            _ => Err(Refusal::new(Stage::Greeting, remote("CONNECT", reply))),
        }
    }

    /// EHLO; HELO where the server does not know it (RFC 5321 §3.2).
    async fn ehlo<S: Io>(&self, wire: &mut Wire<S>, target: &Target) -> Result<Ehlo, Refusal> {
        let limit = self.shared.timeouts.ehlo;
        let name = target.local.ehlo.as_ref().unwrap_or(&self.shared.ehlo);
        let line = format!("EHLO {name}\r\n");
        let reply = wire.command(line.as_bytes(), "EHLO", limit, EHLO_TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Ehlo))?;
        match reply.code {
            200..=299 => return Ok(Ehlo::read(reply)),
            500 | 502 | 504 => {}
            _ => return Err(Refusal::new(Stage::Ehlo, remote("EHLO", reply))),
        }
        let line = format!("HELO {name}\r\n");
        let reply = wire.command(line.as_bytes(), "HELO", limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Ehlo))?;
        match reply.code {
            // Whatever its lines look like, HELO offers nothing.
            200..=299 => Ok(Ehlo { capabilities: Capabilities::default(), keywords: String::new() }),
            _ => Err(Refusal::new(Stage::Ehlo, remote("HELO", reply))),
        }
    }

    /// STARTTLS and the handshake, if wanted and possible. `None`: the session stays in the clear, as it may.
    async fn upgrade<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        upgrade: Upgrade,
        capabilities: &Capabilities,
    ) -> Result<Option<TlsFacts>, Refusal> {
        match (upgrade, capabilities.starttls) {
            (Upgrade::Never, _) | (Upgrade::IfOffered, false) => return Ok(None),
            (Upgrade::Always, false) => {
                let text = "TLS is required and the receiver does not offer STARTTLS";
                return Err(Refusal::new(Stage::Tls, Failure::ours(Blame::Site, EnhancedCode(4, 7, 4), text)));
            }
            (Upgrade::IfOffered | Upgrade::Always, true) => {}
        }
        let limit = self.shared.timeouts.tls;
        let reply = wire.command(b"STARTTLS\r\n", "STARTTLS", limit, TEXT_MAX).await;
        let reply = reply.map_err(Refusal::broken(Stage::Tls))?;
        match (reply.code, upgrade) {
            (220, _) => {}
            // It offers and refuses. The session stands, so it goes on in the clear (RFC 3207 §4).
            (400..=420 | 422..=599, Upgrade::IfOffered) => {
                // "Not now" (454) is remembered for this session only.
                if reply.code >= 500 {
                    self.note_tls_broken(target);
                }
                return Ok(None);
            }
            _ => return Err(Refusal::new(Stage::Tls, remote("STARTTLS", reply))),
        }
        // Octets behind the 220 came in the clear, and would be read as if they had come inside TLS: somebody in
        // between may have put them there. No retry in the clear, which is what he would want.
        if !wire.replies.is_empty() {
            let broken = Broken::Garbage { command: "STARTTLS", garbage: Garbage::OutOfTurn };
            return Err(Refusal::new(Stage::Tls, broken.into_failure()));
        }
        self.handshake(wire, target, limit).await.map(Some)
    }

    async fn handshake<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        limit: Duration,
    ) -> Result<TlsFacts, Refusal> {
        let Stream::Plain(stream) = std::mem::replace(&mut wire.stream, Stream::Gone) else {
            unreachable!("STARTTLS is said once, in the clear");
        };
        let name = tls::server_name(&target.host, target.address.ip());
        let connector = self.shared.tls.connector(target.tls);
        let why = match timeout(limit, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let facts = tls::facts(&stream, target.tls);
                wire.stream = Stream::Tls(Box::new(stream));
                return Ok(facts);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no end within {limit:?}"),
        };
        let failure = Failure::ours(Blame::Site, EnhancedCode(4, 7, 5), format!("TLS handshake failed: {why}"));
        Err(Refusal { stage: Stage::Tls, failure, without_tls: true })
    }

    async fn log_in<S: Io>(
        &self,
        wire: &mut Wire<S>,
        target: &Target,
        credentials: &Credentials,
        capabilities: &Capabilities,
        encrypted: bool,
    ) -> Result<(), Refusal> {
        if !encrypted && !target.address.ip().is_loopback() {
            let text = "no TLS, so the password was not sent";
            return Err(Refusal::new(Stage::Auth, Failure::ours(Blame::EgressPath, EnhancedCode(4, 7, 0), text)));
        }
        let limit = self.shared.timeouts.ehlo;
        let done = auth::authenticate(wire, credentials, capabilities, limit).await;
        done.map_err(|failure| Refusal::new(Stage::Auth, failure))
    }
}

/// A reply to EHLO, read.
struct Ehlo {
    capabilities: Capabilities,
    keywords: String,
}

impl Ehlo {
    fn read(reply: ReplyRef<'_>) -> Ehlo {
        let keywords = reply.text.split('\n').skip(1).filter_map(|line| line.split(' ').next());
        let keywords = keywords.take(40).collect::<Vec<_>>().join(" ");
        Ehlo { capabilities: Capabilities::parse(reply.text), keywords }
    }
}

fn without_quirks(mut capabilities: Capabilities, quirks: Quirks) -> Capabilities {
    capabilities.chunking &= !quirks.no_chunking;
    capabilities.pipelining &= !quirks.no_pipelining;
    capabilities.recipients_max = match (capabilities.recipients_max, quirks.recipients_max) {
        (Some(said), Some(learned)) => Some(said.min(learned)),
        (said, learned) => said.or(learned),
    };
    capabilities
}

/// Refused before any message: most often it is our address that is not liked. What is neither yes nor no is nonsense.
fn remote(command: &'static str, reply: ReplyRef<'_>) -> Failure {
    if !(400..600).contains(&reply.code) {
        return Broken::Garbage { command, garbage: Garbage::Unexpected(reply.code) }.into_failure();
    }
    let blame = if command == "STARTTLS" { Blame::Site } else { Blame::EgressPath };
    Failure { blame, origin: Origin::Remote { command }, reply: reply.to_reply() }
}

//! AUTH at relays (RFC 4954), by mail-send's client on our stream.
//!
//! mail-send reads into a buffer of its own and drops what lies behind the reply it wanted. [`LineStream`] hands it one
//! line at a time, so nothing of ours is ever in that buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mail_send::{Credentials as MailSendCredentials, Error, SmtpClient};
use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, EhloResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::capabilities::Capabilities;
use super::reply::Garbage;
use super::wire::{Broken, Io, Wire};
use crate::config::Credentials;
use crate::mail::{Blame, EnhancedCode, Failure, Origin, Reply};

/// Logs in with the best mechanism offered, PLAIN before LOGIN. The caller made sure that nobody listens.
///
/// # Errors
/// The relay's refusal, without the password should it repeat that, or what broke. Never a message's fault.
pub(super) async fn authenticate<S: Io>(
    wire: &mut Wire<S>,
    credentials: &Credentials,
    capabilities: &Capabilities,
    limit: Duration,
) -> Result<(), Failure> {
    if !wire.replies.is_empty() {
        return Err(Broken::Garbage { command: "AUTH", garbage: Garbage::OutOfTurn }.into_failure());
    }
    let mechanisms = [(capabilities.auth_plain, AUTH_PLAIN), (capabilities.auth_login, AUTH_LOGIN)];
    let mut offer = EhloResponse::new(String::new());
    // One is offered to it: mail-send takes the numerically highest, which is not always the one that works best.
    offer.auth_mechanisms = mechanisms.iter().find(|(offered, _)| *offered).map_or(0, |(_, mechanism)| *mechanism);
    let secret = MailSendCredentials::new(credentials.username.as_str(), credentials.password.as_str());
    let mut client = SmtpClient { stream: LineStream(wire), timeout: limit };
    client.authenticate(&secret, Offer(offer)).await.map(drop).map_err(|error| failure(error, limit, credentials))
}

fn failure(error: Error, limit: Duration, credentials: &Credentials) -> Failure {
    let ours = |text: String| Failure::ours(Blame::EgressPath, EnhancedCode(4, 7, 0), text);
    match error {
        Error::AuthenticationFailed(reply) | Error::UnexpectedReply(reply) if !(400..600).contains(&reply.code) => {
            Broken::Garbage { command: "AUTH", garbage: Garbage::Unexpected(reply.code) }.into_failure()
        }
        Error::AuthenticationFailed(reply) | Error::UnexpectedReply(reply) => {
            // Its parser keeps the enhanced code as bytes and the text as it came.
            let [class, subject, detail] = reply.esc;
            let enhanced = EnhancedCode(class, subject.into(), detail.into());
            let text: String = reply.message.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            let text: String = without_password(text, credentials).chars().take(500).collect();
            let reply = Reply {
                code: reply.code,
                enhanced: (u16::from(class) == reply.code / 100).then_some(enhanced),
                text: text.into(),
            };
            Failure { blame: Blame::EgressPath, origin: Origin::Remote { command: "AUTH" }, reply }
        }
        Error::UnsupportedAuthMechanism => ours("the relay offers neither AUTH PLAIN nor AUTH LOGIN".into()),
        Error::Timeout => Broken::Silent { command: "AUTH", waited: limit }.into_failure(),
        Error::Io(source) => Broken::Lost { command: "AUTH", source }.into_failure(),
        other => ours(format!("AUTH: {other}")),
    }
}

/// A reply is logged, and some relays repeat in it what they did not like.
fn without_password(mut text: String, Credentials { username, password }: &Credentials) -> String {
    let (plain, login) =
        (BASE64_STANDARD.encode(format!("\0{username}\0{password}")), BASE64_STANDARD.encode(password));
    // The password itself last: some word of the relay's may be a short one by chance.
    for secret in [&plain, &login, password].into_iter().filter(|secret| secret.len() >= 4) {
        if text.contains(secret) {
            text = text.replace(secret, "***");
        }
    }
    text
}

struct Offer(EhloResponse<String>);

impl AsRef<EhloResponse<String>> for Offer {
    fn as_ref(&self) -> &EhloResponse<String> {
        &self.0
    }
}

/// Our wire as a stream that never reads past the end of a line.
struct LineStream<'w, S>(&'w mut Wire<S>);

impl<S: Io> AsyncRead for LineStream<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.get_mut().0;
        if wire.replies.is_empty() {
            let mut room = ReadBuf::new(wire.replies.room());
            ready!(Pin::new(&mut wire.stream).poll_read(cx, &mut room))?;
            let read = room.filled().len();
            wire.replies.filled(read);
        }
        buf.put_slice(wire.replies.take_raw_line(buf.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for LineStream<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0.stream).poll_shutdown(cx)
    }
}

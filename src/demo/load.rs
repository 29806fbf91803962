//! Hands messages over by SMTP on several connections, with a client that nobody here wrote (mail-send's).
//!
//! Each message goes in one flight: `MAIL`, its `RCPT`s and `BDAT … LAST` with the content in one write, then all
//! replies are read. The clock of a message starts before its flight leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mail_send::SmtpClient;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::{Clock, Instant};

/// How long the daemon may take to answer one flight.
const PATIENCE: Duration = Duration::from_secs(60);
/// A message put off with 4xx is offered again this many times.
const TRIES_MAX: u32 = 50;
/// Wait before it is offered again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// One message to hand over.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The reverse path.
    pub sender: String,
    /// The forward paths, at least one.
    pub recipients: Vec<String>,
    /// Headers and body, lines ending in CRLF.
    pub content: Vec<u8>,
}

/// What became of one message at the door.
#[derive(Debug, Clone, Copy)]
pub struct Submitted {
    /// Its number.
    pub number: u64,
    /// When its flight left.
    pub sent: Instant,
    /// When its 250 was here.
    pub accepted: Instant,
}

/// Why messages could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection failed.
    #[error("submission session to {0}")]
    Session(SocketAddr, #[source] mail_send::Error),
    /// The daemon refused a message it should take.
    #[error("message {number} was refused: {reply}")]
    Refused {
        /// The message.
        number: u64,
        /// The reply, on one line.
        reply: String,
    },
}

/// How many messages the load has handed over so far; readable while it runs.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Hands over messages `0..count` to `door` on `connections` connections, each written by `letter`. Answers in no order.
///
/// # Errors
/// At the first message that is refused for good or the first session that fails; what was accepted stays accepted.
pub async fn submit(
    door: SocketAddr,
    connections: usize,
    count: u64,
    letter: impl Fn(u64) -> Letter + Send + Sync + 'static,
    progress: Arc<Progress>,
) -> Result<Vec<Submitted>, LoadError> {
    let letter = Arc::new(letter);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..connections.max(1) {
        let (letter, next, progress) = (Arc::clone(&letter), Arc::clone(&next), Arc::clone(&progress));
        clients.spawn(async move {
            let mut client = Client::connect(door).await?;
            let mut submitted = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                submitted.push(client.hand_over(number, &letter(number)).await?);
                progress.0.fetch_add(1, Ordering::Relaxed);
            }
            client.quit().await;
            Ok(submitted)
        });
    }
    let mut all = Vec::with_capacity(count as usize);
    while let Some(client) = clients.join_next().await {
        all.extend(client.expect("clients do not panic and are not aborted")?);
    }
    Ok(all)
}

/// One session with the door.
pub struct Client {
    session: SmtpClient<TcpStream>,
    door: SocketAddr,
}

impl Client {
    /// A session that has said EHLO.
    ///
    /// # Errors
    /// When the door cannot be reached or does not greet.
    pub async fn connect(door: SocketAddr) -> Result<Client, LoadError> {
        let failed = |error| LoadError::Session(door, error);
        let mut session = SmtpClient::connect(door, PATIENCE).await.map_err(failed)?;
        session.stream.set_nodelay(true).map_err(|error| failed(error.into()))?;
        let banner = tokio::time::timeout(PATIENCE, session.read()).await;
        let banner = banner.unwrap_or(Err(mail_send::Error::Timeout)).map_err(failed)?;
        if banner.code != 220 {
            return Err(failed(mail_send::Error::UnexpectedReply(banner)));
        }
        session.ehlo("application.shop.test").await.map_err(failed)?;
        Ok(Client { session, door })
    }

    /// One message, offered again while it is put off.
    ///
    /// # Errors
    /// When it is refused for good or put off too often, or the session fails: then it may or may not be accepted.
    ///
    /// # Cancel safety
    /// None: drop the client with the future.
    pub async fn hand_over(&mut self, number: u64, letter: &Letter) -> Result<Submitted, LoadError> {
        let flight = flight(letter);
        let replies = letter.recipients.len() + 2;
        let sent = Clock.instant();
        let mut tries = 0;
        loop {
            tries += 1;
            let Some((code, text)) = self.fly(&flight, replies).await? else {
                return Ok(Submitted { number, sent, accepted: Clock.instant() });
            };
            if code / 100 != 4 || tries == TRIES_MAX {
                return Err(LoadError::Refused { number, reply: format!("{code} {}", text.replace('\n', " ")) });
            }
            tokio::time::sleep(TRY_AGAIN).await;
            self.session.rset().await.map_err(|error| LoadError::Session(self.door, error))?;
        }
    }

    /// Ends the session. All messages have their 250, so how it ends changes nothing.
    pub async fn quit(self) {
        let _ = self.session.quit().await;
    }

    /// Writes a flight and reads its replies; the first that is not positive.
    async fn fly(&mut self, flight: &[u8], replies: usize) -> Result<Option<(u16, String)>, LoadError> {
        let answers = tokio::time::timeout(PATIENCE, async {
            self.session.stream.write_all(flight).await?;
            self.session.read_many(replies).await
        });
        let answers = answers.await.unwrap_or(Err(mail_send::Error::Timeout));
        let answers = answers.map_err(|error| LoadError::Session(self.door, error))?;
        Ok(answers.into_iter().find(|answer| answer.code / 100 != 2).map(|answer| (answer.code, answer.message)))
    }
}

/// All commands of one transaction and the content.
fn flight(letter: &Letter) -> Vec<u8> {
    let mut flight = Vec::with_capacity(letter.content.len() + 256);
    flight.extend_from_slice(format!("MAIL FROM:<{}>\r\n", letter.sender).as_bytes());
    for recipient in &letter.recipients {
        flight.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
    }
    flight.extend_from_slice(format!("BDAT {} LAST\r\n", letter.content.len()).as_bytes());
    flight.extend_from_slice(&letter.content);
    flight
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::receiver::habits::Refuses;
    use crate::demo::receiver::{Behaviour, Keep, Receiver};

    fn letter(number: u64) -> Letter {
        let content = format!("X-Number: {number}\r\nSubject: hello\r\n\r\n.\r\nbody\r\n").into_bytes();
        Letter { sender: "a@us.test".into(), recipients: vec!["b@them.test".into(), "c@them.test".into()], content }
    }

    #[tokio::test]
    async fn hands_over_each_message_once() {
        let door = Receiver::start_anywhere(Behaviour::default(), Keep::Facts).await.unwrap();
        let progress = Arc::new(Progress::default());
        let mut numbers: Vec<u64> = submit(door.addr(), 4, 100, letter, Arc::clone(&progress))
            .await
            .unwrap()
            .iter()
            .map(|s| s.number)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        assert_eq!((progress.accepted(), door.delivered(), door.violations()), (100, 200, vec![]));
    }

    #[tokio::test]
    async fn says_why_a_message_was_refused() {
        let behaviour = Behaviour::default().habit(Refuses(1.0));
        let door = Receiver::start_anywhere(behaviour, Keep::Facts).await.unwrap();
        let error = submit(door.addr(), 1, 3, letter, Arc::default()).await.unwrap_err();
        assert!(error.to_string().starts_with("message 0 was refused: 550"), "{error}");
    }
}

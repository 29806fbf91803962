//! A receiver that does at every step what a closure says. Plain text, PIPELINING, DATA only; small enough to be trusted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A point of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The client has connected.
    Connect,
    /// EHLO, HELO.
    Ehlo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The dot.
    End,
}

/// What is asked of the closure.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Where the dialogue is.
    pub at: At,
    /// The client's address, at EHLO after its name; the address of MAIL or RCPT; at the dot the content.
    pub text: &'a str,
}

/// What the receiver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// What a willing receiver says here.
    Take,
    /// This reply instead.
    Say(&'static str),
    /// This reply, then close.
    Close(&'static str),
    /// Close without a word.
    Cut,
    /// At the dot: write it down, then close without a word.
    TakeAndCut,
    /// Nothing, for ever.
    Hang,
    /// Nothing until [`Peer::behave`] says otherwise; then the step is asked about again. At RCPT.
    Hold,
    /// Wait, then take.
    After(Duration),
}

/// One recipient of one message, taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The reverse path.
    pub sender: String,
    /// Who.
    pub recipient: String,
    /// Headers and body as they came, dots unstuffed.
    pub content: String,
    /// Who sent it: the name in EHLO, and the address.
    pub client: String,
}

type Manner = Box<dyn FnMut(&Ask<'_>) -> Do + Send>;

/// A running receiver. Dropping it closes its port and cuts its connections.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    manner: Mutex<Manner>,
    behaves: watch::Sender<()>,
    seen: Mutex<Seen>,
}

#[derive(Default, Clone)]
struct Seen {
    taken: Vec<Taken>,
    connections: usize,
    open: usize,
    open_max: usize,
    mails: usize,
    rcpts: Vec<String>,
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().open -= 1;
    }
}

impl Peer {
    /// Serves on `listener`.
    pub fn start(listener: TcpListener, manner: impl FnMut(&Ask<'_>) -> Do + Send + 'static) -> Peer {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manner: Mutex::new(Box::new(manner)),
            behaves: watch::Sender::new(()),
            seen: Mutex::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Peer { address, shared, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes everything.
    pub fn good(listener: TcpListener) -> Peer {
        Peer::start(listener, |_| Do::Take)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it behaves so.
    pub fn behave(&self, manner: impl FnMut(&Ask<'_>) -> Do + Send + 'static) {
        *self.shared.manner.lock().unwrap() = Box::new(manner);
        self.shared.behaves.send_replace(());
    }

    /// What it took, in order.
    pub fn taken(&self) -> Vec<Taken> {
        self.seen(|seen| seen.taken.clone())
    }

    /// Recipients it took.
    pub fn count(&self) -> usize {
        self.seen(|seen| seen.taken.len())
    }

    /// Recipients it took, sorted.
    pub fn recipients(&self) -> Vec<String> {
        let mut recipients: Vec<String> = self.taken().into_iter().map(|taken| taken.recipient).collect();
        recipients.sort();
        recipients
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.seen(|seen| seen.connections)
    }

    /// Connections at once, at most.
    pub fn connections_at_once(&self) -> usize {
        self.seen(|seen| seen.open_max)
    }

    /// MAIL commands so far.
    pub fn mails(&self) -> usize {
        self.seen(|seen| seen.mails)
    }

    /// Every address RCPT was said with, in order.
    pub fn asked(&self) -> Vec<String> {
        self.seen(|seen| seen.rcpts.clone())
    }

    fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, client)) = accepted else { continue };
                {
                    let mut seen = shared.seen.lock().unwrap();
                    seen.connections += 1;
                    seen.open += 1;
                    seen.open_max = seen.open_max.max(seen.open);
                }
                let session = Session { stream: BufReader::new(stream), open: Open(Arc::clone(&shared)), client: client.ip().to_string() };
                sessions.spawn(session.run());
            }
            Some(_) = sessions.join_next() => {}
        }
    }
}

struct Session {
    stream: BufReader<TcpStream>,
    open: Open,
    /// What to call the client: its address, and once it has said EHLO its name before it.
    client: String,
}

impl Session {
    /// `None`: the connection is over.
    async fn run(mut self) -> Option<()> {
        self.stream.get_ref().set_nodelay(true).ok()?;
        self.step(At::Connect, &self.client.clone(), "220 peer.test ESMTP").await?;
        let (mut sender, mut recipients) = (String::new(), Vec::new());
        loop {
            let line = self.line().await?;
            let argument = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => {
                    let address = self.stream.get_ref().peer_addr().ok()?.ip();
                    self.client = format!("{} {address}", line.get(5..).unwrap_or_default().trim());
                    self.step(
                        At::Ehlo,
                        &self.client.clone(),
                        "250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN",
                    )
                    .await?;
                }
                "MAIL" => {
                    (sender, recipients) = (argument(), Vec::new());
                    self.seen().mails += 1;
                    self.step(At::Mail, &sender.clone(), "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    let recipient = argument();
                    self.seen().rcpts.push(recipient.clone());
                    if self.step(At::Rcpt, &recipient, "250 2.1.5 ok").await? {
                        recipients.push(recipient);
                    }
                }
                "DATA" if recipients.is_empty() => self.say("554 5.5.1 no recipients").await?,
                "DATA" => {
                    if self.step(At::Data, "", "354 go ahead").await? {
                        self.content(&sender, &recipients).await?;
                    }
                }
                "RSET" | "NOOP" => self.say("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    return None;
                }
                _ => self.say("500 5.5.1 what?").await?,
            }
        }
    }

    async fn content(&mut self, sender: &str, recipients: &[String]) -> Option<()> {
        let mut content = String::new();
        loop {
            let line = self.line().await?;
            if line == "." {
                break;
            }
            content.push_str(line.strip_prefix('.').unwrap_or(&line));
            content.push_str("\r\n");
        }
        let what = self.ask(At::End, &content);
        if let Do::After(wait) = what {
            tokio::time::sleep(wait).await;
        }
        if matches!(what, Do::Take | Do::After(_) | Do::TakeAndCut) {
            let taken = recipients.iter().map(|recipient| Taken {
                sender: sender.to_owned(),
                recipient: recipient.clone(),
                content: content.clone(),
                client: self.client.clone(),
            });
            self.seen().taken.extend(taken);
        }
        match what {
            Do::Take | Do::After(_) => self.say("250 2.0.0 taken").await,
            other => self.do_it(other, "").await.map(drop),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.open.0.seen.lock().unwrap()
    }

    fn ask(&self, at: At, text: &str) -> Do {
        let ask = Ask { at, text };
        (self.open.0.manner.lock().unwrap())(&ask)
    }

    /// Asks and does it; true if the step was taken.
    async fn step(&mut self, at: At, text: &str, usual: &str) -> Option<bool> {
        let mut behaves = self.open.0.behaves.subscribe();
        loop {
            match self.ask(at, text) {
                Do::Hold => behaves.changed().await.ok()?,
                what => return self.do_it(what, usual).await,
            }
        }
    }

    async fn do_it(&mut self, what: Do, usual: &str) -> Option<bool> {
        match what {
            Do::Take => self.say(usual).await?,
            Do::After(wait) => {
                tokio::time::sleep(wait).await;
                self.say(usual).await?;
            }
            Do::Say(reply) => {
                self.say(reply).await?;
                return Some(false);
            }
            Do::Close(reply) => {
                self.say(reply).await?;
                return None;
            }
            Do::Cut | Do::TakeAndCut => return None,
            Do::Hang | Do::Hold => std::future::pending().await,
        }
        Some(true)
    }

    async fn say(&mut self, reply: &str) -> Option<()> {
        self.stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.ok()?;
        let line = line.strip_suffix(b"\r\n")?;
        Some(String::from_utf8_lossy(line).into_owned())
    }
}

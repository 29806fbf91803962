//! One dialogue, from the receiver's side.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use posthaste::delivery::Io;
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{Answer, Step, TlsOffer, Visit};
use crate::world::World;

/// What a habit may know of the dialogue.
#[derive(Default)]
pub struct Known<'a> {
    pub source: Option<IpAddr>,
    pub sender: &'a str,
    pub recipient: &'a str,
    pub recipients: usize,
    pub transactions: usize,
}

struct Session {
    world: Arc<World>,
    visit: Visit,
    host: usize,
    source: Option<IpAddr>,
    io: BufReader<Box<dyn Io>>,
    secure: bool,
    /// Something was said that is no reply: nobody listens any more.
    garbled: bool,
    transactions: usize,
    transaction: Option<Transaction>,
}

#[derive(Default)]
struct Transaction {
    sender: String,
    recipients: Vec<String>,
    content: Vec<u8>,
    /// MAIL got a 5yz.
    refused: bool,
}

/// What comes after a command.
enum Then {
    Next,
    Upgrade,
    Quit,
}

/// Runs a dialogue to its end, however that comes.
pub(super) async fn run(world: Arc<World>, visit: Visit, host: usize, source: Option<IpAddr>, stream: Box<dyn Io>) {
    let mut session = Session {
        world,
        visit,
        host,
        source,
        io: BufReader::new(stream),
        secure: false,
        garbled: false,
        transactions: 0,
        transaction: None,
    };
    sleep(session.visit.0.rtt).await;
    let greeting = format!("220 {} ready", session.visit.0.hosts[host].0);
    match session.react(Step::Greeting, "", &greeting).await {
        Ok(true) => {}
        _ => return,
    }
    loop {
        match session.command().await {
            Ok(Then::Next) => {}
            Ok(Then::Upgrade) => match session.upgrade().await {
                Some(upgraded) => session = upgraded,
                None => return,
            },
            Ok(Then::Quit) | Err(_) => return,
        }
    }
}

impl Session {
    /// Asks the site's habits and does what they say; `willing` is what a willing receiver says. False: this is refused.
    ///
    /// # Errors
    /// The dialogue is over.
    async fn react(&mut self, step: Step, recipient: &str, willing: &str) -> io::Result<bool> {
        let answer = self.ask(step, recipient).await;
        self.carry_out(answer, willing).await
    }

    async fn ask(&mut self, step: Step, recipient: &str) -> Answer {
        let transaction = self.transaction.as_ref();
        let known = Known {
            source: self.source,
            sender: transaction.map_or("", |transaction| &transaction.sender),
            recipient,
            recipients: transaction.map_or(0, |transaction| transaction.recipients.len()),
            transactions: self.transactions,
        };
        let (delay, answer) = self.visit.0.ask(&self.world, step, self.host, &known);
        if delay > Duration::ZERO {
            sleep(delay).await;
        }
        self.world.note(format_args!("{} {step:?} {recipient} {answer:?}", self.visit.0.hosts[self.host].0));
        answer
    }

    async fn carry_out(&mut self, answer: Answer, willing: &str) -> io::Result<bool> {
        match answer {
            Answer::Take => self.say(willing).await.map(|()| true),
            Answer::Say(reply) => {
                // The client takes a 503 to RCPT for a session out of step, too, and leaves it whatever is under way.
                self.garbled |= !reply.starts_with(['2', '3', '4', '5']) || reply.starts_with("503");
                self.say(&reply).await.map(|()| false)
            }
            Answer::Close(reply) => {
                self.say(&reply).await?;
                self.io.shutdown().await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Answer::Cut | Answer::TakeAndCut => Err(io::ErrorKind::ConnectionAborted.into()),
            Answer::Hang => {
                tokio::io::copy(&mut self.io, &mut tokio::io::sink()).await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    async fn say(&mut self, reply: &str) -> io::Result<()> {
        let line = format!("{reply}\r\n");
        self.io.write_all(line.as_bytes()).await?;
        self.io.flush().await
    }

    /// A line, without its end. The first of a flight comes after the round trip.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let waited = self.io.buffer().is_empty();
        let mut line = Vec::new();
        if self.io.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if waited {
            sleep(self.visit.0.rtt).await;
        }
        line.truncate(line.trim_ascii_end().len());
        Ok(line)
    }

    async fn command(&mut self) -> io::Result<Then> {
        let line = String::from_utf8_lossy(&self.line().await?).into_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                let offers = self.offers();
                self.react(Step::Ehlo, "", &offers).await?;
            }
            "HELO" => drop(self.react(Step::Ehlo, "", "250 hello").await?),
            "STARTTLS" => {
                self.say("220 go ahead").await?;
                return Ok(Then::Upgrade);
            }
            "MAIL" => self.mail(&line).await?,
            "RCPT" => self.rcpt(&line).await?,
            "DATA" => self.data().await?,
            "BDAT" => self.bdat(&line).await?,
            "RSET" => {
                self.transaction = None;
                self.say("250 2.0.0 forgotten").await?;
            }
            "QUIT" => {
                self.say("221 2.0.0 bye").await?;
                return Ok(Then::Quit);
            }
            _ => self.say("500 5.5.2 what?").await?,
        }
        Ok(Then::Next)
    }

    fn offers(&self) -> String {
        let offers = self.visit.0.offers;
        let mut lines = vec!["250-8BITMIME", "250-ENHANCEDSTATUSCODES"];
        lines.extend(offers.pipelining.then_some("250-PIPELINING"));
        lines.extend(offers.chunking.then_some("250-CHUNKING"));
        lines.extend((offers.tls != TlsOffer::None && !self.secure).then_some("250-STARTTLS"));
        format!("250-hello\r\n{}\r\n250 SIZE 50000000", lines.join("\r\n"))
    }

    async fn upgrade(mut self) -> Option<Session> {
        let answer = self.ask(Step::Tls, "").await;
        if self.visit.0.offers.tls != TlsOffer::Works || answer != Answer::Take {
            return None;
        }
        let stream = TlsAcceptor::from(Arc::clone(&SERVER)).accept(self.io.into_inner()).await.ok()?;
        Some(Session { io: BufReader::new(Box::new(stream)), secure: true, transaction: None, ..self })
    }

    async fn mail(&mut self, line: &str) -> io::Result<()> {
        self.transactions += 1;
        self.transaction = Some(Transaction { sender: address(line), ..Transaction::default() });
        let answer = self.ask(Step::Mail, "").await;
        if let (Some(transaction), Some(_)) = (&mut self.transaction, permanent(&answer)) {
            transaction.refused = true;
            self.world.refused_sender(&transaction.sender);
        }
        if !self.carry_out(answer, "250 2.1.0 fine").await? && self.transaction.as_ref().is_some_and(|t| !t.refused) {
            self.transaction = None;
        }
        Ok(())
    }

    async fn rcpt(&mut self, line: &str) -> io::Result<()> {
        let recipient = address(line);
        match &self.transaction {
            None => return self.say("503 5.5.1 MAIL first").await,
            Some(Transaction { refused: true, .. }) => {
                self.world.refused(&recipient);
                return self.say("503 5.5.1 MAIL first").await;
            }
            Some(_) => {}
        }
        self.world.asked(&recipient);
        let answer = self.ask(Step::Rcpt, &recipient).await;
        if permanent(&answer).is_some() {
            self.world.refused(&recipient);
        }
        if self.carry_out(answer, "250 2.1.5 fine").await?
            && let Some(transaction) = &mut self.transaction
        {
            transaction.recipients.push(recipient);
        }
        Ok(())
    }

    async fn data(&mut self) -> io::Result<()> {
        if self.transaction.as_ref().is_none_or(|transaction| transaction.recipients.is_empty()) {
            return self.say("503 5.5.1 RCPT first").await;
        }
        let answer = self.ask(Step::Data, "").await;
        self.note_refusal(&answer);
        if !self.carry_out(answer, "354 go on").await? {
            self.transaction = None;
            return Ok(());
        }
        let mut content = Vec::new();
        loop {
            let start = content.len();
            if self.io.read_until(b'\n', &mut content).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match &content[start..] {
                b".\r\n" => {
                    content.truncate(start);
                    break;
                }
                [b'.', ..] => drop(content.remove(start)),
                _ => {}
            }
        }
        sleep(self.visit.0.rtt).await;
        self.end(content).await
    }

    async fn bdat(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ').skip(1);
        let size: u64 = words.next().and_then(|size| size.parse().ok()).unwrap_or_default();
        let mut chunk = Vec::new();
        (&mut self.io).take(size).read_to_end(&mut chunk).await?;
        if chunk.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(transaction) = self.transaction.as_mut().filter(|transaction| !transaction.recipients.is_empty())
        else {
            return self.say("503 5.5.1 RCPT first").await;
        };
        transaction.content.extend(chunk);
        match words.next() {
            Some(_) => {
                let content = std::mem::take(&mut transaction.content);
                self.end(content).await
            }
            None => self.say("250 2.0.0 more").await,
        }
    }

    /// The content is there. Some keep it before they are done with it, some after.
    async fn end(&mut self, content: Vec<u8>) -> io::Result<()> {
        let recipients =
            self.transaction.as_ref().map(|transaction| transaction.recipients.clone()).unwrap_or_default();
        let answer = self.ask(Step::End, "").await;
        self.note_refusal(&answer);
        self.transaction = None;
        let takes = matches!(answer, Answer::Take | Answer::TakeAndCut);
        let copies = if takes { self.world.took(&recipients, &content) } else { Vec::new() };
        if takes && self.visit.0.coin() {
            sleep(self.visit.0.rtt).await;
        }
        self.carry_out(answer, "250 2.0.0 kept").await?;
        self.world.answered(&copies, !self.garbled);
        Ok(())
    }

    fn note_refusal(&self, answer: &Answer) {
        if let (Some(transaction), Some(_)) = (&self.transaction, permanent(answer)) {
            transaction.recipients.iter().for_each(|recipient| self.world.refused(recipient));
        }
    }
}

/// The reply, if it is one that ends a recipient.
fn permanent(answer: &Answer) -> Option<&Cow<'static, str>> {
    match answer {
        Answer::Say(reply) | Answer::Close(reply) if reply.starts_with('5') => Some(reply),
        _ => None,
    }
}

/// What stands between the angle brackets.
fn address(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

/// A certificate for anybody; made once a process, since it costs more than a handshake.
static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let pair = rcgen::generate_simple_self_signed(vec!["mx.sim.example".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
});

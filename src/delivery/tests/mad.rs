//! A server that says anything.

use std::io;

use bytes::Bytes;
use proptest::prelude::*;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::opening::Upgrade;
use super::super::transaction::Job;
use super::server::{client, lines, piped};
use crate::clock::Clock;
use crate::mail::{Outcome, Recipient, ReversePath};

const REPLIES: [&str; 12] = [
    "250 2.1.0 ok\r\n",
    "250-more\r\n",
    "250 ok\r\n",
    "250\n",
    "354 go\r\n",
    "421 4.3.2 bye\r\n",
    "450 4.2.1 later\r\n",
    "452 4.5.3 too many\r\n",
    "503 5.5.1 sequence\r\n",
    "550 5.1.1 no\r\n",
    "552 full\r\n",
    "what?\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a server answers: no panic, no hang, one outcome a recipient, nothing delivered that was refused.
    #[test]
    fn a_mad_server_harms_nobody(
        keywords in 0usize..4,
        answers in proptest::collection::vec((0usize..12, 1usize..4), 0..30),
        recipients in 1usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async move {
            let (ours, theirs) = tokio::io::duplex(1000);
            tokio::spawn(mad(theirs, keywords, answers.clone()));
            let client = client(RootCertStore::empty());
            let Ok(mut connection) = client.open(ours, &piped(), None, Upgrade::Never, Clock.instant()).await else {
                return;
            };
            let all: Vec<Recipient> = (0..recipients)
                .map(|n| Recipient::new(format!("r{n}@them.example").parse().expect("an address")))
                .collect();
            let all: Vec<&Recipient> = all.iter().collect();
            for _ in 0..3 {
                let content = lines(500);
                let job = Job {
                    reverse_path: &ReversePath::Null,
                    recipients: &all,
                    signature: &Bytes::new(),
                    content: &content,
                    eight_bit: false,
                    smtputf8: false,
                    ret: None,
                    envid: None,
                };
                let usable = connection.is_usable();
                let transaction = connection.deliver(&job).await;
                assert_eq!(transaction.outcomes.len(), recipients);
                assert!(transaction.session_failure.is_none() || !connection.is_usable());
                for outcome in transaction.outcomes.iter().flatten() {
                    assert!(usable);
                    match outcome {
                        Outcome::Delivered { reply } => assert!(reply.is_positive()),
                        Outcome::Deferred(failure) => assert!(!failure.reply.is_positive()),
                        Outcome::Failed(failure) => assert!(failure.reply.is_permanent()),
                    }
                }
            }
        });
    }
}

async fn mad(mut stream: DuplexStream, keywords: usize, answers: Vec<(usize, usize)>) -> io::Result<()> {
    let ehlo =
        ["250 mx", "250-mx\r\n250 PIPELINING", "250-mx\r\n250 CHUNKING", "250-mx\r\n250-CHUNKING\r\n250 PIPELINING"];
    stream.write_all(b"220 mx\r\n").await?;
    stream.read_exact(&mut [0; 21]).await?;
    stream.write_all(ehlo[keywords].as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    let mut room = [0; 700];
    for (reply, times) in answers {
        if stream.read(&mut room).await? == 0 {
            return Ok(());
        }
        stream.write_all(REPLIES[reply].repeat(times).as_bytes()).await?;
    }
    Ok(())
}

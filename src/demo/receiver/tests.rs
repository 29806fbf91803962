use std::collections::HashSet;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::habits::*;
use super::*;

/// Plays a dialogue: `C:` lines are sent (`+` at the end of one sends it together with the next), `S:` lines must start
/// the replies; `S: (closed)` is the end of the stream.
async fn check_dialogue(behaviour: Behaviour, dialogue: &str) -> Receiver {
    let receiver = Receiver::start_anywhere(behaviour, Keep::Content).await.unwrap();
    play(&receiver, dialogue).await;
    receiver
}

async fn play(receiver: &Receiver, dialogue: &str) {
    let mut stream = BufReader::new(TcpStream::connect(receiver.addr()).await.unwrap());
    let mut together = String::new();
    for step in dialogue.lines().map(str::trim).filter(|step| !step.is_empty()) {
        if let Some(command) = step.strip_prefix("C:") {
            let command = command.trim_start();
            match command.strip_suffix('+') {
                Some(more) => together += &format!("{more}\r\n"),
                None => {
                    together += &format!("{command}\r\n");
                    stream.write_all(std::mem::take(&mut together).as_bytes()).await.unwrap();
                }
            }
            continue;
        }
        let want = step.strip_prefix("S:").expect("C: or S:").trim();
        let mut line = String::new();
        loop {
            line.clear();
            // A cut connection may end in a reset instead of an end.
            let length = stream.read_line(&mut line).await.unwrap_or(0);
            if length == 0 {
                assert_eq!(want, "(closed)");
                return;
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        assert!(line.starts_with(want), "wanted {want:?}, got {line:?}");
    }
}

const GOOD: &str = "
    S: 220
    C: EHLO client.test
    S: 250
    C: MAIL FROM:<a@us.test> BODY=8BITMIME+
    C: RCPT TO:<b@them.test>+
    C: RCPT TO:<\"odd>one\"@them.test>+
    C: DATA
    S: 250 2.1.0
    S: 250 2.1.5
    S: 250 2.1.5
    S: 354
    C: X-Number: 7+
    C: +
    C: ..dotted+
    C: .
    S: 250 2.0.0
    C: MAIL FROM:<>+
    C: RCPT TO:<a@us.test>+
    C: BDAT 8+
    C: report+
    C: BDAT 13 LAST+
    C: X-Number: 9
    S: 250
    S: 250
    S: 250
    S: 250 2.0.0 taken
    C: QUIT
    S: 221
    S: (closed)";

#[tokio::test]
async fn takes_messages_and_writes_them_down() {
    let receiver = check_dialogue(Behaviour::default(), GOOD).await;
    let facts: Vec<_> = receiver
        .deliveries()
        .into_iter()
        .map(|d| (d.number, d.sender, d.recipient, String::from_utf8(d.content.unwrap().to_vec()).unwrap()))
        .collect();
    let content = "X-Number: 7\r\n\r\n.dotted\r\n";
    let report = "report\r\nX-Number: 9\r\n";
    let want = [
        (Some(7), "a@us.test", "b@them.test", content),
        (Some(7), "a@us.test", "\"odd>one\"@them.test", content),
        (Some(9), "", "a@us.test", report),
    ];
    assert_eq!(facts, want.map(|(n, from, to, text)| (n, from.to_owned(), to.to_owned(), text.to_owned())));
    assert_eq!(receiver.counts().messages, 2);
    receiver.reach(3).await;
}

#[tokio::test]
async fn judges_recipients_as_told() {
    let refusing = Behaviour::default().habit(Refuses(1.0));
    let greylisting = Behaviour::default().habit(Greylists::after(Duration::from_millis(40)));
    let receiver = check_dialogue(
        refusing,
        "S: 220
         C: EHLO client.test
         S: 250
         C: MAIL FROM:<a@us.test>
         S: 250
         C: RCPT TO:<b@them.test>
         S: 550 5.1.1
         C: DATA
         S: 554 5.5.1
         C: BDAT 4 LAST+
         C: ab
         S: 554 5.5.1
         C: RCPT TO:<b@them.test>
         S: 503",
    )
    .await;
    assert_eq!((receiver.counts().refused, receiver.delivered()), (1, 0));

    let rcpt = "S: 220
         C: EHLO client.test
         S: 250
         C: MAIL FROM:<a@us.test>
         S: 250
         C: RCPT TO:<b@them.test>
         S: ";
    let receiver = check_dialogue(greylisting, &format!("{rcpt}450 4.7.1")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    play(&receiver, &format!("{rcpt}250")).await;
    assert_eq!(receiver.counts().deferred, 1);
}

#[tokio::test]
async fn cuts_where_told() {
    let envelope = "S: 220
        C: EHLO client.test
        S: 250
        C: MAIL FROM:<a@us.test>";
    for (step, dialogue, taken) in [
        (Step::Connect, "S: (closed)".to_owned(), 0),
        (Step::Greeting, "S: (closed)".to_owned(), 0),
        (Step::Ehlo, "S: 220\nC: EHLO client.test\nS: (closed)".to_owned(), 0),
        (Step::Mail, format!("{envelope}\nS: (closed)"), 0),
        (Step::Rcpt, format!("{envelope}\nS: 250\nC: RCPT TO:<b@them.test>\nS: (closed)"), 0),
        // The reply to RCPT is still in line when the end is cut: a pipelining sender loses it with the rest.
        (Step::Content, format!("{envelope}\nS: 250\nC: RCPT TO:<b@t.test>+\nC: BDAT 0 LAST\nS: (closed)"), 0),
        (Step::End, format!("{envelope}\nS: 250\nC: RCPT TO:<b@t.test>+\nC: BDAT 0 LAST\nS: (closed)"), 1),
    ] {
        let receiver = check_dialogue(Behaviour::default().habit(Cuts::every(1, step)), &dialogue).await;
        assert_eq!((receiver.delivered(), receiver.counts().cut), (taken, 1), "{step:?}");
    }
}

#[tokio::test]
async fn notes_what_a_sender_must_not_do() {
    let plain = Offers {
        pipelining: false,
        chunking: false,
        smtputf8: false,
        eight_bit: false,
        dsn: false,
        ..Offers::default()
    };
    let receiver = check_dialogue(
        Behaviour::default().offering(plain),
        "S: 220
         C: EHLO client.test+
         C: MAIL FROM:<a@us.test> BODY=8BITMIME
         S: 250
         S: 555
         C: MAIL FROM:<a@us.test>
         S: 250
         C: RCPT TO:<bé@them.test>
         S: 553
         C: RCPT TO:<b@them.test> NOTIFY=NEVER
         S: 555
         C: RCPT TO:<b@them.test>
         S: 250
         C: BDAT 2 LAST+
         C:
         S: 500
         C: FROB
         S: 500",
    )
    .await;
    let violations = receiver.violations();
    for part in ["pipelined", "BODY=8BITMIME", "bé@", "NOTIFY", "BDAT without", "FROB"] {
        assert!(violations.iter().any(|v| v.contains(part)), "{part} in {violations:?}");
    }
}

#[tokio::test]
async fn turns_away_more_than_it_can_take() {
    let behaviour = Behaviour::default().habit(SessionsMax(1)).habit(TransactionsMax(0));
    let receiver = Receiver::start_anywhere(behaviour, Keep::Facts).await.unwrap();
    let mut first = TcpStream::connect(receiver.addr()).await.unwrap();
    first.read_exact(&mut [0; 4]).await.unwrap();
    play(&receiver, "S: 421 4.7.0\nS: (closed)").await;
    first.write_all(b"MAIL FROM:<a@us.test>\r\n").await.unwrap();
    let mut rest = String::new();
    first.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("421 4.7.0 enough for one connection\r\n"), "{rest}");
}

#[tokio::test]
async fn speaks_tls_and_resumes_it() {
    let receiver = Receiver::start_anywhere(Behaviour::default(), Keep::Facts).await.unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for _ in 0..2 {
        let mut client = mail_send::SmtpClient {
            stream: TcpStream::connect(receiver.addr()).await.unwrap(),
            timeout: Duration::from_secs(5),
        };
        client.read().await.unwrap();
        client.ehlo("client.test").await.unwrap();
        let mut client = client.start_tls(&connector, "mx.posthaste.test").await.unwrap();
        client.ehlo("client.test").await.unwrap();
        client.mail_from("a@us.test", &Default::default()).await.unwrap();
        client.rcpt_to("b@them.test", &Default::default()).await.unwrap();
        client.bdat(b"Subject: hello\r\n\r\n").await.unwrap();
        client.quit().await.unwrap();
    }
    assert!(receiver.deliveries().iter().all(|delivery| delivery.tls));
    let counts = receiver.counts();
    assert_eq!((counts.tls, counts.tls_resumed, counts.messages), (2, 1, 2));
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn several_share_one_port_and_record_to_a_file() {
    let addresses: Vec<IpAddr> = (2..5u8).map(|n| [127, 0, 0, n].into()).collect();
    let listeners = bind_together(&addresses).await.unwrap();
    let ports: HashSet<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
    assert_eq!((listeners.len(), ports.len()), (3, 1));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("taken.jsonl");
    let listener = listeners.into_iter().next_back().unwrap();
    let receiver = Receiver::start(listener, Behaviour::default(), Keep::File(file.clone())).unwrap();
    play(&receiver, GOOD).await;
    let lines = std::fs::read_to_string(file).unwrap();
    let numbers: Vec<_> =
        lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(7), Some(7), Some(9)]);
    assert!(receiver.deliveries().is_empty() && receiver.delivered() == 3);
}

#[test]
fn a_share_is_refused_the_same_way_every_time() {
    let some = Refuses(0.25);
    let refused = (0..1000).filter(|n| some.refuses(&format!("user{n}@them.test"))).count();
    assert!((200..300).contains(&refused), "{refused}");
    assert!(!Refuses(0.0).refuses("a@b.test") && Refuses(1.0).refuses("a@b.test"));
}

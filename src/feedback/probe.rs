//! Ways in for fuzz targets and benchmarks; see [`crate::probe`].

use super::bounce::{self, Kind};
use super::classify;
use super::reports::{self, Report};
use super::{Fate, ReportedRecipient, Reporter, delivery_report};
use super::{complaint, mime};
use crate::clock::Timestamp;
use crate::mail::{
    Blame, EnhancedCode, Envelope, Failure, MessageId, Notify, Origin, Recipient, Reply, Ret, Stream, header,
};

const NOW: Timestamp = Timestamp(1_795_348_800_000);

/// A report about foreign texts. The input is lines: sender, recipients (a space between each), ENVID, ORCPT, the host,
/// the reply; behind an empty line the message. The report is a message with lines that SMTP carries, its header is made
/// of fields, and there is one group per recipient for machines.
pub fn report(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    let (facts, message) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut facts = facts.split('\n');
    let mut next = || facts.next().unwrap_or_default();
    let Ok(reverse_path) = next().parse() else { return };
    let addresses: Vec<_> = next().split(' ').filter_map(|one| one.parse().ok()).take(50).collect();
    let (envid, orcpt, mx) = (printable(next()), printable(next()), printable(next()));
    let recipients: Vec<Recipient> = addresses
        .into_iter()
        .enumerate()
        .map(|(place, address)| Recipient {
            orcpt: (place == 0 && !orcpt.is_empty()).then(|| orcpt.clone().into()),
            notify: (place == 1).then_some(Notify { failure: true, ..Notify::default() }),
            address,
        })
        .collect();
    if recipients.is_empty() {
        return;
    }
    let reply = Reply { code: 550, enhanced: Some(EnhancedCode(5, 1, 1)), text: next().replace('\t', "\n").into() };
    let failure = Failure { blame: Blame::Recipient, origin: Origin::Remote { command: "RCPT" }, reply };
    // As the door leaves it: lines end in CRLF, no NUL.
    let content: String = message.split('\n').map(|line| line.replace(['\r', '\0'], "") + "\r\n").collect();
    let original = Envelope {
        reverse_path,
        recipients,
        stream: Stream::default(),
        accepted_at: NOW,
        not_before: NOW,
        expires_at: NOW,
        smtputf8: true,
        eight_bit: !content.is_ascii(),
        ret: octets.len().is_multiple_of(2).then_some(Ret::Full),
        envid: (!envid.is_empty()).then(|| envid.clone().into()),
        list: None,
        tags: Vec::new(),
        key: None,
        delay_report_at: None,
    };
    let failed: Vec<_> = original
        .recipients
        .iter()
        .map(|recipient| ReportedRecipient {
            recipient,
            failure: &failure,
            mx: (!mx.is_empty()).then_some(mx.as_str()),
            last_attempt: NOW,
            fate: [Fate::Failed, Fate::Expired, Fate::Returned][content.len() % 3],
        })
        .collect();
    let hostname = "mta1.us.example".parse().expect("a host name");
    let reporter = Reporter { hostname: &hostname, reporting: crate::config::Reporting::default() };
    let made = delivery_report(&original, MessageId(7), content.as_bytes(), &failed, reporter, MessageId(8), NOW);
    match made {
        None => assert!(original.reverse_path.address().is_none(), "somebody wants the report"),
        Some((envelope, report)) => check(&envelope, &report, failed.len()),
    }
}

/// A foreign message, and the same as a reply. Only a bounce has recipients, and it has one; what is kept of a text is
/// bounded; the same octets give the same.
pub fn bounce(octets: &[u8]) {
    let incoming = bounce::read(octets);
    assert_eq!(incoming.kind == Kind::Bounce, !incoming.recipients.is_empty());
    assert!(incoming.recipients.iter().all(|one| one.diagnostic.len() <= 2_000 && one.verdict.confidence <= 100));
    assert_eq!(incoming, bounce::read(octets));
    let verdict = classify::classify_line(&String::from_utf8_lossy(octets), "");
    assert!(verdict.class == classify::Class::Soft || verdict.reason.is_lasting());
}

/// A foreign message, read as a complaint: what is kept of it is bounded, and the same octets give the same.
pub fn complaint(octets: &[u8]) {
    let Some(found) = complaint::read(octets) else { return };
    assert!(!found.feedback_type.is_empty() && found.original_rcpt.len() <= 200 && found.other.len() <= 50);
    assert!(found.tokens.len() <= 32 && found.tokens.iter().all(|token| token.len() == 36));
    assert!(!found.is_against_sender() || found.feedback_type != "not-spam");
    assert_eq!(Some(found), complaint::read(octets));
}

/// A message whose signature is to be verified: there is one author or none, and mail-auth reads it without harm.
pub fn cfbl(octets: &[u8]) {
    let author = complaint::cfbl::author(octets);
    assert!(author.is_none_or(|domain| !domain.is_empty() && !domain.contains(['@', ','])));
    let _ = mail_auth::AuthenticatedMessage::parse(octets);
}

/// A file that says it is a DMARC report, packed or not: sums hold together.
pub fn dmarc(octets: &[u8]) {
    if let Ok(Report::Dmarc(sums)) = reports::read_file(octets) {
        assert!(sums.org.len() <= 300 && sums.domain.len() <= 400);
        let disposed = sums.none.saturating_add(sums.quarantine).saturating_add(sums.reject);
        assert_eq!(disposed, sums.messages);
        assert!(sums.dmarc.pass >= sums.dkim.pass.max(sums.spf.pass));
    }
}

/// A message with a TLS report in it.
pub fn tlsrpt(octets: &[u8]) {
    for report in [reports::read(octets), reports::read_file(octets)] {
        if let Ok(Report::Tls(sums)) = report {
            assert!(sums.policies.len() <= 100 && sums.policies.iter().all(|policy| policy.failures.len() <= 20));
        }
    }
}

/// A message that is opened: no more parts than are looked at, none larger than all of it but for what its encoding adds.
pub fn mime(octets: &[u8]) {
    let opened = mime::Opened::of(octets);
    assert!(opened.parts.len() <= mime::PARTS_MAX && (opened.cut || !opened.parts.is_empty()));
    for part in &opened.parts {
        assert!(part.decoded().len() <= part.body.len() && part.body.len() <= octets.len());
        let _ = (part.text(), part.file_name());
    }
}

/// What the door lets stand in parameters: printable ASCII without a space.
fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(100).collect()
}

fn check(envelope: &Envelope, report: &[u8], recipients: usize) {
    assert!(report.ends_with(b"\r\n"));
    for line in report.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("lines end in CRLF");
        assert!(text.len() <= 998 && !text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{}", text.escape_ascii());
    }
    let section = &report[..header::section_len(report)];
    assert_eq!(header::fields(section).last().map(|field| field.end), Some(section.len()), "a line is no field");
    assert_eq!(envelope.eight_bit, !report.is_ascii());
    let groups = memchr::memmem::find_iter(report, b"\r\nFinal-Recipient: ").count();
    assert!(groups >= recipients, "{groups} groups for {recipients} recipients");
}

//! Complaints and reports that come in: true, forged, signed and not.

use std::time::Duration;

use posthaste::clock::Clock;
use posthaste::config::{Config, DkimConfig};
use posthaste::feedback::token::{Sent, Tokens};
use posthaste::mail::MessageId;
use posthaste::signing::Signer;
use posthaste::signing::keygen::{KeyAlgorithm, generate};

use crate::peer::Peer;
use crate::world::{Event, World, listeners, zone};

const HEADERS: &str = "X-Posthaste-Tenant: shop\r\nX-Posthaste-Class: bulk\r\nX-Posthaste-Campaign: spring\r\n";

/// A world that asks for complaints, whose receiver `them.test` takes everything and has a key to sign with.
pub struct Stage {
    pub world: World,
    them: Peer,
    signer: Signer,
    _keys: tempfile::TempDir,
}

pub async fn stage(change: impl FnOnce(&mut Config)) -> Stage {
    let them = Peer::good(listeners(1).await.remove(0));
    let keys = tempfile::tempdir().unwrap();
    let mut zone = zone(&["them"]);
    let mut dkim = Vec::new();
    for domain in ["us.test", "them.test"] {
        let key = generate(KeyAlgorithm::Rsa).unwrap();
        let file = keys.path().join(domain);
        std::fs::write(&file, &key.private_pem).unwrap();
        zone.txt(&format!("s1._domainkey.{domain}"), &key.record);
        dkim.push(DkimConfig { domain: domain.parse().unwrap(), selector: "s1".into(), key_file: file });
    }
    let (signer, problems) = Signer::load(&dkim.split_off(1));
    assert!(problems.is_empty());
    let world = World::start(zone, them.address().port(), |config| {
        config.feedback.bounce_domain = Some("b.us.test".parse().unwrap());
        config.feedback.cfbl = true;
        config.feedback.feedback_id = true;
        config.inbound.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.inbound.errors_max = 100_000;
        config.dkim = dkim;
        change(config);
    })
    .await;
    Stage { world, them, signer, _keys: keys }
}

impl Stage {
    /// Sends to one recipient; the message as it arrived.
    pub async fn send(&self, to: &str) -> String {
        let before = self.them.count();
        self.world.send_with(&[to], &format!("From: a@us.test\r\n{HEADERS}")).await;
        self.world.see("delivery", || (self.them.count() > before).then_some(())).await;
        self.world.until("delivered", to, 1).await;
        self.them.taken().pop().unwrap().content
    }

    /// With a signature of `them.test`.
    pub fn signed(&self, content: &str) -> String {
        let fields = self.signer.sign(content.as_bytes(), Clock.timestamp()).unwrap();
        assert!(!fields.is_empty());
        format!("{}{content}", String::from_utf8_lossy(&fields))
    }

    /// Hands over a message; the last line of the reply to its content.
    pub async fn hand_in(&self, to: &str, content: &str) -> String {
        let mut door = self.world.back().await;
        door.say("MAIL FROM:<fbl@them.test>", "250").await;
        door.say(&format!("RCPT TO:<{to}>"), "250").await;
        door.say("DATA", "354").await;
        door.say(&format!("{}\r\n.", content.trim_end()), "250").await
    }

    pub async fn complaints(&self, count: usize) -> Vec<Event> {
        self.world.until("complained", "", count).await
    }

    pub fn suppressed(&self) -> Vec<String> {
        self.world.told("suppression", "").iter().map(|event| event.recipient().to_owned()).collect()
    }
}

/// What stands behind a field's name.
pub fn field<'a>(content: &'a str, name: &str) -> &'a str {
    let line = content.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {content}"))
}

pub fn report(kind: &str, rcpt: &str, original: &str) -> String {
    let rcpt = if rcpt.is_empty() { String::new() } else { format!("Original-Rcpt-To: {rcpt}\r\n") };
    format!(
        "From: FBL <fbl@them.test>\r\nSubject: FW: complaint\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"x\"\r\n\r\n\
         --x\r\n\r\nA complaint.\r\n--x\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: {kind}\r\nUser-Agent: them/1\r\nVersion: 1\r\n{rcpt}\r\n\
         --x\r\nContent-Type: text/rfc822-headers\r\n\r\n{original}\r\n--x--\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_complaint_suppresses_and_is_told_whole() {
    let stage = stage(|_| {}).await;
    let content = stage.send("spam@them.test").await;
    let address = field(&content, "CFBL-Address").strip_suffix("; report=arf").unwrap();
    let token = field(&content, "CFBL-Feedback-ID");
    assert_eq!(address, format!("fbl+{token}@b.us.test"));
    assert_eq!(field(&content, "Feedback-ID"), "spring:shop:bulk:mta.us.test");
    let signature = content.split("\r\nCFBL-Address").next().unwrap();
    assert!(
        signature.starts_with("DKIM-Signature")
            && signature.contains("CFBL-Address")
            && signature.contains("CFBL-Feedback-ID")
    );

    // Redacted but for what RFC 9477 §3.5 wants; without a signature, with another's, altered, then right.
    let arf = report("abuse", "", &format!("CFBL-Feedback-ID: {token}\r\n"));
    let right = stage.signed(&arf);
    for (place, wrong) in [
        arf.clone(),
        right.replace("FBL <fbl@them.test>", "FBL <fbl@other.test>"),
        right.replace("Feedback-Type: abuse", "Feedback-Type: fraud"),
    ]
    .iter()
    .enumerate()
    {
        stage.hand_in(address, wrong).await;
        let told = stage.complaints(place + 1).await;
        assert!(!told[place].text("reply").is_empty(), "{}", told[place].0);
    }
    assert_eq!(stage.suppressed(), Vec::<String>::new());
    stage.hand_in(address, &right).await;
    let told = stage.complaints(4).await.remove(3);
    for (name, expected) in [
        ("what", "abuse"),
        ("recipient", "spam@them.test"),
        ("sender", "a@us.test"),
        ("tenant", "shop"),
        ("class", "bulk"),
        ("campaign", "spring"),
        ("provider", "default"),
        ("source", "default"),
        ("by", "them.test"),
        ("reply", ""),
    ] {
        assert_eq!(told.text(name), expected, "{name} of {}", told.0);
    }
    let suppression = stage.world.until("suppression", "spam@them.test", 1).await.remove(0);
    assert_eq!((suppression.text("evidence"), suppression.text("reason")), (told.text("id"), "complaint"));
    assert_eq!(stage.world.metric("posthaste_complaints_total", &["abuse", "default"]).await, 3.0);
    assert_eq!(stage.world.metric("posthaste_complaint_share", &["shop", "bulk", "default"]).await, 1.0);

    // Said again it is told again, and changes nothing. The address is not mailed any more.
    stage.hand_in(address, &right).await;
    stage.complaints(5).await;
    stage.world.send_with(&["spam@them.test"], HEADERS).await;
    stage.world.until("suppressed", "spam@them.test", 1).await;
    assert_eq!(stage.suppressed(), ["spam@them.test"]);
    assert_eq!(stage.them.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_loop_needs_a_token_of_ours_and_a_complaint() {
    let stage = stage(|_| {}).await;
    let content = stage.send("bob@them.test").await;
    let sender = stage.them.taken()[0].sender.clone();
    let token = field(&content, "CFBL-Feedback-ID").to_owned();
    let forged = Tokens::new(b"another secret entirely").sent(Sent::any(MessageId(1 << 40)));
    let header = |token: &str| format!("Return-Path: <b+{token}@b.us.test>\r\nTo: bob@them.test\r\n");
    let trace = content.split("\r\n\r\n").next().unwrap().replace(&token, "redacted").replace("Bob", "");
    let cases = [
        ("abuse", header("redacted")),
        ("abuse", header(&forged)),
        ("abuse", trace),
        ("not-spam", header(&token)),
        ("auth-failure", header(&token)),
        ("other", header(&token)),
    ];
    for (place, (kind, original)) in cases.iter().enumerate() {
        stage.hand_in("fbl@b.us.test", &report(kind, "bob@them.test", original)).await;
        let told = stage.complaints(place + 1).await;
        assert!(!told[place].text("reply").is_empty(), "{}", told[place].0);
    }
    assert_eq!(stage.suppressed(), Vec::<String>::new());
    // Only the return path is left of it.
    let last = report("abuse", "", &format!("Return-Path: <{sender}>\r\n"));
    stage.hand_in("fbl@b.us.test", &last).await;
    stage.world.until("suppression", "bob@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_a_message_complains_for_nobody_else() {
    let stage = stage(|_| {}).await;
    stage.world.send_with(&["mallory@them.test", "victim@them.test"], &format!("From: a@us.test\r\n{HEADERS}")).await;
    stage.world.until("delivered", "", 2).await;
    let copies = stage.them.taken();
    let token = field(&copies[0].content, "CFBL-Feedback-ID");
    assert_eq!(field(&copies[1].content, "CFBL-Feedback-ID"), token, "all have the same content");
    let path = |whom: &str| {
        let copy = copies.iter().find(|copy| copy.recipient.starts_with(whom)).unwrap();
        format!("Return-Path: <{}>\r\n", copy.sender)
    };
    let of_message = format!("CFBL-Feedback-ID: {token}\r\n");
    // His own host signs what he sends.
    let forged = stage.signed(&report("abuse", "victim@them.test", &of_message));
    for (place, to) in [format!("fbl+{token}@b.us.test"), "fbl@b.us.test".into()].iter().enumerate() {
        stage.hand_in(to, &forged).await;
        assert_eq!(stage.complaints(place + 1).await[place].text("reply"), "several recipients share its token");
    }
    let own = stage.signed(&report("abuse", "victim@them.test", &format!("{}{of_message}", path("mallory"))));
    stage.hand_in(&format!("fbl+{token}@b.us.test"), &own).await;
    stage.world.until("suppression", "mallory@them.test", 1).await;
    assert_eq!(stage.suppressed(), ["mallory@them.test"]);
    // The return path, which RFC 5965 reports have with the header, is the victim's alone.
    let real = stage.signed(&report("abuse", "", &format!("{}{of_message}", path("victim"))));
    stage.hand_in(&format!("fbl+{token}@b.us.test"), &real).await;
    stage.world.until("suppression", "victim@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_addresses_take_complaints() {
    let stage = stage(|_| {}).await;
    let mut door = stage.world.back().await;
    let forged = Tokens::new(b"another secret entirely").sent(Sent::any(MessageId(1 << 40)));
    for to in
        [format!("fbl+{forged}@b.us.test"), "fbl+x@b.us.test".into(), "fbl@us.test".into(), "dmarc@us.test".into()]
    {
        door.say("MAIL FROM:<>", "250").await;
        door.say(&format!("RCPT TO:<{to}>"), "550").await;
        door.say("RSET", "250").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_told_and_counted() {
    let stage = stage(|_| {}).await;
    let dmarc = "<feedback><report_metadata><org_name>them</org_name></report_metadata><policy_published>\
        <domain>us.test</domain><p>reject</p></policy_published><record><row><count>5</count><policy_evaluated>\
        <disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated></row></record></feedback>";
    let tls = r#"{"organization-name":"them","date-range":{"start-datetime":"a","end-datetime":"b"},"policies":[{"policy":
        {"policy-type":"sts","policy-domain":"us.test"},"summary":{"total-successful-session-count":7,"total-failure-session-count":2},
        "failure-details":[{"result-type":"certificate-expired","failed-session-count":2}]}]}"#.replace('\n', "\r\n");
    for (to, kind, text) in [
        ("dmarc@b.us.test", "text/xml", dmarc),
        ("TLSRPT@b.us.test", "application/tlsrpt+json", &tls),
        ("dmarc@b.us.test", "text/plain", "hello"),
    ] {
        stage
            .hand_in(to, &format!("From: r@them.test\r\nSubject: Report\r\nContent-Type: {kind}\r\n\r\n{text}\r\n"))
            .await;
    }
    let told = stage.world.until("report", "", 3).await;
    let what: Vec<&str> = told.iter().map(|event| event.text("what")).collect();
    assert_eq!(what, ["dmarc", "tls", "unreadable"]);
    assert_eq!(told[0].0["details"]["dmarc"]["reject"], 5);
    assert_eq!(told[1].0["details"]["tls"]["policies"][0]["failures"]["certificate-expired"], 2);
    for (name, labels, expected) in [
        ("posthaste_dmarc_messages_total", &["dmarc", "fail"][..], 5.0),
        ("posthaste_tls_report_sessions_total", &["sts", "success"], 7.0),
        ("posthaste_tls_report_sessions_total", &["sts", "certificate-expired"], 2.0),
        ("posthaste_reports_total", &["unreadable"], 1.0),
    ] {
        assert_eq!(stage.world.metric(name, labels).await, expected, "{name} {labels:?}");
    }
    tokio::time::timeout(Duration::from_secs(20), stage.world.until_empty()).await.unwrap();
}

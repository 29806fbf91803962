use super::*;

#[track_caller]
fn check(message: &str, kind: &str, rcpt: &[&str]) -> Complaint {
    let found = read(message.as_bytes()).unwrap_or_else(|| panic!("no complaint: {message}"));
    assert_eq!(
        (found.feedback_type.as_str(), &found.original_rcpt[..]),
        (kind, &rcpt.iter().map(|one| one.to_string()).collect::<Vec<_>>()[..])
    );
    assert_eq!(read(message.replace('\n', "\r\n").as_bytes()).as_ref(), Some(&found), "by line ends");
    found
}

const TOKEN: &str = "0123456789abcdefghjkmnpqrstvwxyz0123";

/// A report as RFC 5965 has it, with these parts.
fn report(fields: &str, original: &str) -> String {
    format!(
        "From: fbl@them.example\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nwords\n\
         --b\nContent-Type: message/feedback-report\n\n{fields}\n--b\nContent-Type: message/rfc822\n\n{original}\n--b--\n"
    )
}

#[test]
fn reads_every_field() {
    let found = check(
        &report(
            "Feedback-Type: Abuse\nUser-Agent: x/1\nVersion: 1\nOriginal-Rcpt-To: <a@b.example>\nOriginal-Rcpt-To: c@d.example\n\
             Original-Mail-From: <>\nOriginal-Envelope-Id: e1\nSource-IP: 192.0.2.1\nReceived-Date: now\nIncidents: 3\n\
             Reported-URI: http://x.example/\nReported-Domain: us.example\nAuthentication-Results: x;\n y=z\nX-Own: v\n",
            "Message-ID: <1@us.example>\nTo: \"A\" <a@b.example>\nSubject: s\nFeedback-ID: c:t:bulk:us\n\nbody",
        ),
        "abuse",
        &["a@b.example", "c@d.example"],
    );
    assert!(found.standard && found.is_against_sender());
    assert_eq!((found.source_ip.as_str(), found.arrival_date.as_str(), found.incidents), ("192.0.2.1", "now", Some(3)));
    assert_eq!((&*found.original_message_id, &*found.original_to), ("1@us.example", "a@b.example"));
    assert_eq!((&*found.original_envelope_id, &*found.feedback_id), ("e1", "c:t:bulk:us"));
    assert_eq!(found.reported_uri, ["http://x.example/"]);
    assert_eq!(found.authentication_results, ["x; y=z"]);
    assert_eq!(found.other, [("x-own".to_owned(), "v".to_owned())]);
}

#[test]
fn finds_tokens_wherever_they_stand() {
    let fields = "Feedback-Type: abuse\nVersion: 1\nUser-Agent: x\n";
    let id = "0K3V9Z8Q2M1XA";
    for original in [
        format!("CFBL-Feedback-ID: {}\n {}\n\n", &TOKEN[..20], &TOKEN[20..]),
        format!("Return-Path: <b+{}@us.example>\n\n", TOKEN.to_uppercase()),
        format!("List-Unsubscribe: <mailto:u+{TOKEN}@us.example>\n\n"),
        format!("Subject: x\n\nhttps://us.example/u/{}=\n{}\n", &TOKEN[..9], &TOKEN[9..]),
        format!("X-Anything: {TOKEN}; x\n\n"),
    ] {
        assert_eq!(check(&report(fields, &original), "abuse", &[]).tokens, [TOKEN], "{original}");
    }
    let found =
        check(&report(&format!("{fields}Original-Mail-From: <b+{TOKEN}@us.example>\n"), "To: x\n\n"), "abuse", &[]);
    assert_eq!(found.tokens, [TOKEN]);
    let trace = format!(
        "Received: from x by Us.Example (posthaste) with ESMTP\n\tid {id};\n now\nMessage-ID: <{id}@us.example>\n\n"
    );
    let found = check(&report(fields, &trace), "abuse", &[]);
    assert_eq!(found.ids, [("us.example".to_owned(), id.to_owned())]);
    let link = "A".repeat(80);
    let unsubscribe = format!("List-Unsubscribe: <https://us.example/u/{}\n {}>\n\n", &link[..50], &link[50..]);
    assert_eq!(check(&report(fields, &unsubscribe), "abuse", &[]).subscriptions, [link]);
}

#[test]
fn reads_broken_and_encoded_reports() {
    let block = "Feedback-Type: fraud\nUser-Agent: x\nVersion: 1\nOriginal-Rcpt-To: a@b.example\n";
    let original = "Message-ID: <1@us.example>\nFrom: x\nTo: y\n\nbody\n";
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(block);
    for message in [
        // No boundary that fits, no type, encoded, without MIME at all, forwarded.
        report(block, original).replace("boundary=b", "boundary=other"),
        report(block, original).replace("message/feedback-report", "text/plain"),
        report(block, original).replace("message/feedback-report", "application/x-feedback-report"),
        report(block, original)
            .replace("message/feedback-report", "message/feedback-report\nContent-Transfer-Encoding: base64")
            .replace(block, &encoded),
        format!("Subject: x\n\nwords\n\n{block}\n{original}"),
        format!("Content-Type: message/rfc822\n\n{}", report(block, original)),
    ] {
        check(&message, "fraud", &["a@b.example"]);
    }
    check("Content-Type: multipart/report; report-type=feedback-report\n\n", "abuse", &[]);
    let header_only = report(block, original).replace("message/rfc822", "text/rfc822-headers");
    assert_eq!(check(&header_only, "fraud", &["a@b.example"]).original_message_id, "1@us.example");
}

#[test]
fn reads_the_forms_of_others() {
    let json = r#"{"notificationType":"Complaint","complaint":{"complainedRecipients":[{"emailAddress":"a@b.example"}],"arrivalDate":"x"},"mail":{"messageId":"m"}}"#;
    let found = check(&format!("Subject: AWS\n\n{json}\n--\nfooter\n"), "abuse", &["a@b.example"]);
    assert_eq!((&*found.original_message_id, &*found.arrival_date, found.standard), ("m", "x", false));
    let wrapped = serde_json::json!({"Type": "Notification", "Message": json}).to_string();
    check(&format!("Subject: AWS\n\n{wrapped}\n"), "abuse", &["a@b.example"]);
    check("From: A <a@b.example>\nSubject: Unsubscribe\n\n", "opt-out", &["a@b.example"]);
    check("Subject: x\n\nApple Mail sent this email to unsubscribe from the list.\n", "opt-out", &[]);
}

#[test]
fn ordinary_mail_is_no_complaint() {
    for message in [
        "Subject: Re: complaint about message from you\n\nwhat do you mean\n",
        "Subject: hello\n\nFeedback-Type: what is that?\n",
        "Subject: how to unsubscribe\n\nPlease tell me\n",
        "Subject: unsubscribe\nList-Id: x\n\nhello list\n",
        "Subject: AWS\n\n{\"notificationType\":\"Bounce\",\"x\":\"complaint\"}\n",
        "",
        "\n",
    ] {
        assert_eq!(read(message.as_bytes()), None, "{message}");
    }
}

#[test]
fn only_complaints_against_us_count() {
    for (kind, counts) in [
        ("abuse", true),
        ("fraud", true),
        ("opt-out", true),
        ("not-spam", false),
        ("auth-failure", false),
        ("dmarc", false),
        ("other", false),
    ] {
        let found = check(&report(&format!("Feedback-Type: {kind}\nVersion: 1\nUser-Agent: x\n"), ""), kind, &[]);
        assert_eq!(found.is_against_sender(), counts, "{kind}");
    }
}

#[test]
fn what_a_bomb_can_ask_is_bounded() {
    let many = format!("Feedback-Type: abuse\n{}", "Original-Rcpt-To: a@b.example\nX-Other: y\n".repeat(20_000));
    let tokens: String = (0..10_000).map(|n| format!("{n:036} ")).collect();
    let found = read(report(&many, &format!("X: {tokens}\n\n{tokens}")).as_bytes()).expect("a complaint");
    assert!(found.original_rcpt.len() <= MANY_MAX && found.other.len() <= 50 && found.tokens.len() <= 32);
    let mut deep = report("Feedback-Type: abuse\n", "");
    for _ in 0..1000 {
        deep = format!("Content-Type: message/rfc822\n\n{deep}");
    }
    read(deep.as_bytes());
    let json = format!("Subject: x\n\n{{\"complaint\":{}", "[".repeat(200_000));
    read(json.as_bytes());
}

use super::*;

fn reasons(message: &str) -> (Kind, Vec<(String, Reason, Class)>) {
    let incoming = read(message.as_bytes());
    let recipients = incoming.recipients.into_iter().map(|one| (one.recipient, one.verdict.reason, one.verdict.class));
    (incoming.kind, recipients.collect())
}

#[test]
fn reads_a_report_for_machines() {
    let report = "From: <mailer-daemon@mx.example>\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nSorry.\r\n--b\r\n\
        Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
        Final-Recipient: rfc822; a@one.example\r\nAction: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n\
        Final-Recipient: rfc822; b@two.example\r\nAction: delayed\r\nStatus: 4.4.1\r\n\r\n\
        Final-Recipient: rfc822; c@two.example\r\nAction: delivered\r\nStatus: 2.0.0\r\n--b--\r\n";
    let incoming = read(report.as_bytes());
    let read: Vec<_> =
        incoming.recipients.iter().map(|one| (one.recipient.as_str(), one.action, one.verdict.class)).collect();
    assert_eq!(
        read,
        [
            ("a@one.example", Action::Failed, Class::Hard),
            ("b@two.example", Action::Delayed, Class::Soft),
            ("c@two.example", Action::Delivered, Class::Soft)
        ]
    );
}

#[test]
fn reads_what_qmail_writes() {
    let (kind, recipients) = reasons(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nTo: me@here.example\nSubject: failure notice\n\n\
        Hi. This is the qmail-send program at mx.example.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\
        This is a permanent error; I've given up. Sorry it didn't work out.\n\n<a@one.example>:\n\
        Sorry, no mailbox here by that name. (#5.1.1)\n\n<b@two.example>:\nThe users mailfolder is over the allowed quota (size). (#5.2.2)\n\n\
        --- Below this line is a copy of the message.\n\nReturn-Path: <me@here.example>\nTo: x@y.example\n",
    );
    assert_eq!(kind, Kind::Bounce);
    assert_eq!(
        recipients,
        [
            ("a@one.example".into(), Reason::UserUnknown, Class::Hard),
            ("b@two.example".into(), Reason::MailboxFull, Class::Soft)
        ]
    );
}

#[test]
fn tells_other_mail_apart() {
    for (message, kind) in [
        (
            "From: a@b.example\nSubject: Out of office: back on Monday\nAuto-Submitted: auto-replied\n\nI am away.\n",
            Kind::AutoReply,
        ),
        ("From: a@b.example\nSubject: lunch\n\nUser unknown is a funny band name.\n", Kind::Other),
        (
            "From: shop@b.example\nSubject: Your parcel was not delivered\n\nWe could not deliver it to a@b.example.\n",
            Kind::Other,
        ),
        ("", Kind::Other),
    ] {
        assert_eq!(read(message.as_bytes()).kind, kind, "{message}");
    }
}

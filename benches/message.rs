//! The message that benchmarks send.

use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::mail::{Class, Envelope, Recipient, Stream};

/// A message of 10 KB with an ordinary header.
pub fn content() -> Vec<u8> {
    let mut content = String::from(
        "Received: from app.us.example ([192.0.2.7])\r\n\tby mta1.us.example (posthaste) with ESMTPS id 0K3V9Z8Q2M1XA\r\n\
         \tfor <bob@them.example>; Sun, 22 Nov 2026 12:00:00 +0000\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\n\
         From: Ann Lee <ann@us.example>\r\nTo: Bob <bob@them.example>\r\nReply-To: ann@us.example\r\n\
         Subject: Your order has been\r\n sent\r\nMessage-ID: <0K3V9Z8Q2M1XA@us.example>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
         List-Unsubscribe: <https://us.example/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n",
    );
    while content.len() < 10_240 {
        content.push_str("It left our warehouse this morning, and will be with you in two or three days.\r\n");
    }
    content.into_bytes()
}

/// Its envelope.
pub fn envelope() -> Envelope {
    let now = Timestamp(1_795_348_800_000);
    Envelope {
        reverse_path: "bounces+0K3V9Z8Q2M1XA@us.example".parse().expect("an address"),
        recipients: vec![Recipient::new("bob@them.example".parse().expect("an address"))],
        stream: Stream { tenant: "shop".into(), class: Class::Transactional, campaign: "orders".into() },
        accepted_at: now,
        not_before: now,
        expires_at: now.after(Duration::from_secs(345_600)),
        smtputf8: false,
        eight_bit: false,
        ret: None,
        envid: None,
        list: None,
        tags: vec!["order".into()],
        key: None,
        delay_report_at: None,
    }
}

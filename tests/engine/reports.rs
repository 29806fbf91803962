//! What senders hear of mail that waits.

use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::{ReportsSend, Scope, StreamReportsConfig};
use posthaste::mail::EnvelopeAddress;
use posthaste::suppression::{self, Entry, Reason, Subject};

use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, zone};

/// Puts off every recipient.
fn busy(ask: &crate::peer::Ask<'_>) -> Do {
    if ask.at == At::Rcpt { Do::Say("451 4.2.0 busy") } else { Do::Take }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_hears_of_delay_once_even_across_a_restart() {
    let mut hosts = listeners(2).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), busy);
    let us = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them", "us"]), them.address().port(), |config| {
        config.reports.delay_after = Duration::from_millis(500);
    })
    .await;
    let to = |notify: &[(&str, &str)]| -> Vec<String> {
        notify.iter().map(|(name, notify)| format!("<{name}@them.test>{notify}")).collect()
    };
    let all = [("asked", " NOTIFY=DELAY"), ("silent", ""), ("failure", " NOTIFY=FAILURE"), ("never", " NOTIFY=NEVER")];
    let mut door = world.door().await;
    door.send_as("<a@us.test> RET=FULL ENVID=QQ1", &to(&all), "").await;
    door.send_as("<>", &to(&[("null", " NOTIFY=DELAY")]), "").await;
    world.until("delivered", "a@us.test", 1).await;
    let report = us.taken().remove(0).content;
    for line in [
        "Subject: Your message is delayed\r\n",
        "Original-Envelope-Id: QQ1\r\n",
        "Final-Recipient: rfc822; asked@them.test\r\nAction: delayed\r\nStatus: 4.2.0\r\n",
        "Diagnostic-Code: smtp; 451 4.2.0 busy\r\n",
        "Will-Retry-Until: ",
        "\r\nSubject: hello\r\n",
    ] {
        assert!(report.contains(line), "{line} in {report}");
    }
    assert!(!report.contains("silent@") && !report.contains("failure@") && !report.contains("never@"), "{report}");
    assert!(!report.contains("Hello.\r\n"), "RET is about failure: {report}");
    // It goes on being put off, before a restart and after.
    let attempts = world.told("deferred", "asked@").len();
    world.until("deferred", "asked@", attempts + 2).await;
    assert!(world.stop(Duration::from_secs(10)).await);
    world.start_again().await;
    world.until("deferred", "asked@", attempts + 5).await;
    them.behave(|_| Do::Take);
    world.until("delivered", "them.test", 5).await;
    world.until_empty().await;
    assert_eq!(us.recipients(), ["a@us.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_told_by_events_gets_no_mail_that_it_did_not_ask_for() {
    let mut hosts = listeners(2).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        At::Rcpt if ask.text.contains("no@") => Do::Say("550 5.7.1 not you"),
        At::Rcpt if ask.text.contains("slow@") => Do::Say("451 4.2.0 busy"),
        _ => Do::Take,
    });
    let us = Peer::good(hosts.next().unwrap());
    let mut world = World::start(zone(&["them", "us"]), them.address().port(), |config| {
        config.reports.delay_after = Duration::from_millis(300);
        config.reports.stream = vec![row("shop", ReportsSend::Event, false), row("press", ReportsSend::Mail, true)];
    })
    .await;
    let gone = "gone@them.test".parse().unwrap();
    world.daemon().suppressions().add(vec![entry(&gone)]).await.unwrap();
    let mut door = world.door().await;
    let shop = "X-Posthaste-Tenant: shop\r\n";
    let to = |who: &str, notify: &str| vec![format!("<{who}@them.test>{notify}")];
    // Nothing was asked for: refused, expired, suppressed and delayed mail is told by its events.
    door.send_as("<silent@us.test>", &to("no", ""), shop).await;
    door.send_as("<silent@us.test>", &to("gone", ""), shop).await;
    door.send_as("<silent@us.test> BY=1;R", &to("slow", ""), shop).await;
    // What was asked for comes.
    door.send_as("<asked@us.test>", &to("no", " NOTIFY=FAILURE"), shop).await;
    door.send_as("<asked@us.test>", &to("gone", " NOTIFY=FAILURE,DELAY"), shop).await;
    // Others hear as ever; those that want to, of delay too.
    door.send_as("<other@us.test>", &to("no", ""), "").await;
    let waits = "X-Posthaste-Tenant: press\r\n";
    door.send_as("<press@us.test>", &to("slow", ""), waits).await;
    door.send_as("<never@us.test>", &to("slow", " NOTIFY=NEVER"), waits).await;
    world.until("bounced", "no@", 3).await;
    world.until("suppressed", "gone@", 2).await;
    world.until("expired", "slow@", 1).await;
    world.until("delivered", "us.test", 4).await;
    // From a reload on the stream is told by mail.
    world.config.reports.stream.clear();
    world.daemon().reload(&world.config).unwrap();
    door.send_as("<reloaded@us.test>", &to("no", ""), shop).await;
    world.until("delivered", "reloaded@", 1).await;
    them.behave(|_| Do::Take);
    world.until_empty().await;
    let mut told = us.recipients();
    told.sort();
    let expected = ["asked", "asked", "other", "press", "reloaded"].map(|name| format!("{name}@us.test"));
    assert_eq!(told, expected);
    let delayed = us.taken().into_iter().find(|report| report.recipient == "press@us.test").unwrap();
    assert!(delayed.content.contains("Subject: Your message is delayed\r\n"), "{}", delayed.content);
}

fn row(tenant: &str, send: ReportsSend, delays: bool) -> StreamReportsConfig {
    StreamReportsConfig { scope: Scope { tenant: Some(tenant.into()), ..Scope::default() }, send, delays }
}

fn entry(address: &EnvelopeAddress) -> Entry {
    Entry {
        subject: Subject::address(address),
        scope: suppression::Scope::Global,
        reason: Reason::Manual,
        evidence: "".into(),
        source: "a test".into(),
        since: Timestamp(1_700_000_000_000),
        until: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_asks_for_notice_is_told_of_and_ends_nothing() {
    let mut hosts = listeners(2).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), busy);
    let us = Peer::good(hosts.next().unwrap());
    // Nobody is told of delay but for a time of its own.
    let world = World::start(zone(&["them", "us"]), them.address().port(), |config| {
        config.reports.delay_after = Duration::ZERO;
    })
    .await;
    let mut door = world.door().await;
    let to = ["<b@them.test>".to_owned(), "<c@them.test> NOTIFY=FAILURE".to_owned()];
    door.send_as("<a@us.test> BY=1;NT", &to, "").await;
    door.send_as("<other@us.test>", &["<d@them.test> NOTIFY=DELAY".to_owned()], "").await;
    // It is so already.
    door.send_as("<late@us.test> BY=-60;N", &["<e@them.test>".to_owned()], "").await;
    world.until("delivered", "us.test", 2).await;
    let taken = us.taken();
    let report = &taken.iter().find(|report| report.recipient == "a@us.test").unwrap().content;
    for line in ["Deliver-By-Date: ", "Final-Recipient: rfc822; b@them.test\r\nAction: delayed\r\nStatus: 4.4.7\r\n"] {
        assert!(report.contains(line), "{line} in {report}");
    }
    assert!(!report.contains("c@them.test"), "{report}");
    let late = world.told("deferred", "e@them.test")[0].number("attempt");
    assert_eq!(late, 1);
    them.behave(|_| Do::Take);
    world.until("delivered", "them.test", 4).await;
    world.until_empty().await;
    let mut told = us.recipients();
    told.sort();
    assert_eq!(told, ["a@us.test", "late@us.test"]);
}

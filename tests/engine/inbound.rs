//! What comes back by mail: bounces, forged and true.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{ByteSize, Config, VerpNames};
use posthaste::feedback::token::{RecipientHash, Sent, Tokens};
use posthaste::mail::MessageId;
use tokio::task::JoinSet;

use crate::peer::Peer;
use crate::world::{Door, Event, World, listeners, zone};

/// What a client of the listener hears, for a content that it sends.
pub const TAKEN: &str = "250 2.0.0";

/// A world that asks for bounces, and one receiver, `them.test`, that takes everything.
pub async fn world(change: impl FnOnce(&mut Config)) -> (World, Peer) {
    let them = Peer::good(listeners(1).await.remove(0));
    let world = World::start(zone(&["them"]), them.address().port(), |config| {
        config.feedback.bounce_domain = Some("b.us.test".parse().unwrap());
        config.inbound.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.inbound.errors_max = 100_000;
        config.suppression.hard_bounces = 1;
        change(config);
    })
    .await;
    (world, them)
}

/// Sends to all of these in one transaction; the return path that they saw, and the message's id.
pub async fn return_path(world: &World, them: &Peer, to: &[&str]) -> (String, String) {
    let before = them.count();
    let id = world.send(to).await;
    world.see("delivery", || (them.count() == before + to.len()).then_some(())).await;
    (them.taken().pop().unwrap().sender, id)
}

/// Hands over a message from `<>`; the last line of the reply to its content.
pub async fn hand_in(world: &World, to: &str, content: &str) -> String {
    hand_in_from(world, "", to, content, "").await
}

async fn hand_in_from(world: &World, from: &str, to: &str, content: &str, expected: &str) -> String {
    let mut door = addressed(world, from, to).await;
    door.say("DATA", "354").await;
    door.say(&format!("{content}\r\n."), expected).await
}

/// The same where memory may be in use before the content comes, or while it does.
async fn hand_in_or_hear(world: &World, to: &str, content: &str) -> String {
    let mut door = addressed(world, "", to).await;
    let answer = door.say("DATA", "").await;
    match answer.starts_with("354") {
        true => door.say(&format!("{content}\r\n."), "").await,
        false => answer,
    }
}

/// A transaction that waits for its content.
async fn addressed(world: &World, from: &str, to: &str) -> Door {
    let mut door = world.back().await;
    door.say(&format!("MAIL FROM:<{from}>"), "250").await;
    door.say(&format!("RCPT TO:<{to}>"), "250").await;
    door
}

/// A report (RFC 3464): what became of each recipient is `ORIGINAL|FINAL|ACTION|STATUS|DIAGNOSTIC`.
pub fn report(recipients: &[&str]) -> String {
    let mut text = String::from(
        "From: MAILER-DAEMON@mx.them.test\r\nSubject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"x\"\r\n\r\n\
         --x\r\n\r\nYour message could not be delivered.\r\n\
         --x\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.them.test\r\n",
    );
    for recipient in recipients {
        let parts: Vec<&str> = recipient.split('|').collect();
        let [original, last, action, status, diagnostic] = parts[..] else { panic!("{recipient}") };
        if !original.is_empty() {
            text.push_str(&format!("\r\nOriginal-Recipient: rfc822;{original}"));
        }
        text.push_str(&format!(
            "\r\nFinal-Recipient: rfc822; {last}\r\nAction: {action}\r\nStatus: {status}\r\n\
             Diagnostic-Code: smtp; {diagnostic}\r\n"
        ));
    }
    text + "\r\n--x--"
}

pub fn dead(address: &str) -> String {
    format!("|{address}|failed|5.1.1|550 5.1.1 <{address}>: Recipient address rejected: User unknown")
}

/// Who was put on the suppression list so far.
pub fn suppressed(world: &World) -> Vec<String> {
    world.told("suppression", "").iter().map(|event| event.recipient().to_owned()).collect()
}

fn tokens(world: &World) -> Tokens {
    Tokens::load_or_make(&world.path("tokens.key")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounce_suppresses_whom_we_sent_to_and_tells_the_whole_chain() {
    let (world, them) = world(|_| {}).await;
    let headers = "X-Posthaste-Tenant: shop\r\nX-Posthaste-Class: bulk\r\nX-Posthaste-Campaign: spring\r\n";
    let id = world.send_with(&["gone@them.test"], headers).await;
    let delivered = world.until("delivered", "gone@", 1).await.remove(0);
    assert_eq!(delivered.text("sender"), "a@us.test", "our events know the client's sender");
    let path = them.taken().remove(0).sender;
    assert!(path.starts_with("b+") && path.ends_with("@b.us.test"), "{path}");

    let answer = hand_in(&world, &path.to_uppercase(), &report(&[&dead("gone@them.test")])).await;
    assert!(answer.starts_with(TAKEN), "{answer}");
    // It was on disk before that answer, so the log has it at once, or as soon as it writes.
    let returned = world.until("returned", "gone@them.test", 1).await.remove(0);
    for (field, expected) in [
        ("what", "failed"),
        ("message_id", id.as_str()),
        ("sender", "a@us.test"),
        ("tenant", "shop"),
        ("class", "bulk"),
        ("campaign", "spring"),
        ("by", "127.0.0.1"),
        ("reason", "user-unknown"),
        ("permanence", "permanent"),
        ("enhanced", "5.1.1"),
    ] {
        assert_eq!(returned.text(field), expected, "{field} of {}", returned.0);
    }
    let suppression = world.until("suppression", "gone@them.test", 1).await.remove(0);
    assert_eq!(suppression.text("evidence"), returned.text("id"));
    assert_eq!((suppression.text("what"), suppression.text("reason")), ("added", "hard-bounce"));
    assert_eq!(suppression.text("message_id"), id);
    assert_eq!(world.metric("posthaste_inbound_messages_total", &["bounce"]).await, 1.0);
    assert_eq!(world.metric("posthaste_bounces_total", &["user-unknown"]).await, 1.0);

    // Said again it is told again, and changes nothing.
    hand_in(&world, &path, &report(&[&dead("gone@them.test")])).await;
    world.until("returned", "gone@them.test", 2).await;
    assert_eq!(suppressed(&world), ["gone@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_failure_for_good_suppresses_nobody() {
    let (world, them) = world(|_| {}).await;
    let auto = "From: Bob <bob@them.test>\r\nAuto-Submitted: auto-replied\r\nSubject: Out of office\r\n\r\nI am away.";
    let mail = "From: Bob <bob@them.test>\r\nSubject: Re: hello\r\n\r\nThanks!";
    let full = "|bob@them.test|failed|5.2.2|552 5.2.2 mailbox full";
    let policy = "|bob@them.test|failed|5.7.1|550 5.7.1 message refused by policy";
    let later = "|bob@them.test|delayed|4.4.1|connection timed out";
    let arrived = "|bob@them.test|delivered|2.0.0|250 ok";
    let relayed = "|bob@them.test|relayed|2.0.0|250 ok";
    let expanded = "|bob@them.test|expanded|2.0.0|250 ok";
    let cases = [
        ("", report(&[full]), "returned failed"),
        ("", report(&[policy]), "returned repeated"),
        ("", report(&[later]), "returned delayed"),
        ("", report(&[arrived]), "returned delivered"),
        ("", report(&[relayed]), "returned relayed"),
        ("", report(&[expanded]), "returned expanded"),
        // Of an alias one address is dead, another has it.
        (
            "",
            report(&[&format!("bob@them.test{}", dead("x@e.test")), "bob@them.test|y@e.test|delivered|2.0.0|250 ok"]),
            "returned delivered",
        ),
        ("", auto.into(), "replied auto-reply"),
        ("bob@them.test", auto.into(), "replied auto-reply"),
        ("bob@them.test", mail.into(), "replied mail"),
        ("", mail.into(), "returned unknown"),
        ("", "".into(), "returned unknown"),
    ];
    let (path, id) = return_path(&world, &them, &["bob@them.test"]).await;
    for (count, (from, content, expected)) in cases.iter().enumerate() {
        hand_in_from(&world, from, &path, content, TAKEN).await;
        let told = || {
            let told: Vec<Event> = world.events().into_iter().filter(|event| !event.is_terminal()).collect();
            (told.len() > count).then_some(told)
        };
        let event = world.see(expected, told).await.pop().unwrap();
        assert_eq!(format!("{} {}", event.name(), event.text("what")), *expected, "{content}");
        assert_eq!((event.text("message_id"), event.recipient()), (&*id, "bob@them.test"), "{content}");
    }
    assert_eq!(suppressed(&world), [""; 0]);
    // And one that is.
    hand_in(&world, &path, &report(&[&dead("bob@them.test")])).await;
    world.until("suppression", "bob@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused() {
    let (world, them) = world(|_| {}).await;
    let (path, _) = return_path(&world, &them, &["a@them.test"]).await;
    let token = path.strip_prefix("b+").unwrap().strip_suffix("@b.us.test").unwrap();
    let now = Clock.timestamp();
    let sent = |at: Timestamp| Sent::any(MessageId(at.0 << 22));
    let days = |days: u64| Timestamp(now.0 - days * 86_400_000);
    let others = Tokens::new(b"somebody else's secret").sent(sent(now));
    let mut refused: Vec<(String, &str)> = vec![
        (format!("b+{}@b.us.test", tokens(&world).sent(sent(days(31)))), "550 5.7.1"),
        (format!("b+{others}@b.us.test"), "550 5.1.1"),
        ("b+@b.us.test".into(), "550 5.1.1"),
        ("b@b.us.test".into(), "550 5.1.1"),
        (format!("{token}@b.us.test"), "550 5.1.1"),
        (format!("c+{token}@b.us.test"), "550 5.1.1"),
        (format!("b+{token}0@b.us.test"), "550 5.1.1"),
        (format!("b+{}@b.us.test", &token[1..]), "550 5.1.1"),
        (format!("b+{token}+{token}@b.us.test"), "550 5.1.1"),
        (format!("\"b+{token}\"@b.us.test"), "550 5.1.1"),
        ("fbl+x@b.us.test".into(), "550 5.1.1"),
        (format!("unsubscribe+{token}@b.us.test"), "550 5.1.1"),
        ("postmaster@b.us.test".into(), "550 5.1.1"),
        ("a@b.us.test".into(), "550 5.1.1"),
        (format!("b+{token}@us.test"), "550 5.7.1"),
        (format!("b+{token}@b.them.test"), "550 5.7.1"),
        (format!("b+{token}@x.b.us.test"), "550 5.7.1"),
        (format!("b+{token}@[127.0.0.1]"), "550 5.7.1"),
        ("a@them.test".into(), "550 5.7.1"),
    ];
    // Each digit changed, each pair of neighbours swapped.
    let digits: Vec<char> = token.chars().collect();
    for place in 0..digits.len() {
        let mut other = digits.clone();
        other[place] = if other[place] == '7' { '8' } else { '7' };
        refused.push((format!("b+{}@b.us.test", other.iter().collect::<String>()), "550 5.1.1"));
        let mut swapped = digits.clone();
        swapped.swap(place, (place + 1) % digits.len());
        if swapped != digits {
            refused.push((format!("b+{}@b.us.test", swapped.iter().collect::<String>()), "550 5.1.1"));
        }
    }
    let mut door = world.back().await;
    door.say("MAIL FROM:<>", "250").await;
    for (address, expected) in &refused {
        let answer = door.say(&format!("RCPT TO:<{address}>"), "5").await;
        assert!(answer.starts_with(expected), "{address}: {answer}");
    }
    door.say("DATA", "554").await;
    door.say(&format!("RCPT TO:<{path}>"), "250").await;
    door.say(&format!("RCPT TO:<b+{}@b.us.test>", tokens(&world).sent(sent(days(29)))), "250").await;
    assert_eq!(world.told("returned", "").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_suppressed_for_what_a_stranger_says_of_him() {
    let (world, them) = world(|config| config.feedback.verp = VerpNames::Transaction).await;
    let (path, _) = return_path(&world, &them, &["mallory@them.test"]).await;
    // Who was mailed can say what he wants; only his own address pays for it.
    let victims = ["victim@them.test", "victim@other.test"].map(dead);
    hand_in(&world, &path, &report(&[&victims[0], &victims[1], &dead("mallory@them.test")])).await;
    world.until("suppression", "mallory@them.test", 1).await;
    // A transaction with several names none of them: only those who had it are told of, and what it says is not proven.
    let (path, id) = return_path(&world, &them, &["one@them.test", "two@them.test", "three@them.test"]).await;
    hand_in(&world, &path, &report(&[&victims[0], &dead("TWO@them.test"), "|three@them.test|failed|5.2.2|552 full"]))
        .await;
    let returned = world.until("returned", "t", 3).await;
    let of_it: BTreeSet<&str> =
        returned.iter().filter(|event| event.text("message_id") == id).map(Event::recipient).collect();
    assert_eq!(of_it, BTreeSet::from(["three@them.test", "two@them.test"]));
    hand_in(&world, &path, &report(&[&victims[0]])).await;
    let nobody = || world.told("returned", "").into_iter().find(|event| event.recipient().is_empty());
    let nobody = world.see("a report about nobody", nobody).await;
    assert_eq!((nobody.text("message_id"), nobody.text("what")), (&*id, "failed"));
    assert_eq!(suppressed(&world), ["mallory@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_enough_when_the_events_are_gone() {
    let (world, _them) = world(|_| {}).await;
    // Sent by another host with the same key, or so long ago that its events were set aside and dropped.
    let message = MessageId((Clock.timestamp().0 - 86_400_000) << 22);
    let path = |recipient: Option<&str>| {
        let recipient = recipient.map(|address| RecipientHash::of(&address.parse().unwrap()));
        format!("b+{}@b.us.test", tokens(&world).sent(Sent { recipient, ..Sent::any(message) }))
    };
    let content = report(&[&dead("other@them.test"), &dead("Old@them.test")]);
    hand_in(&world, &path(Some("old@them.test")), &content).await;
    world.until("suppression", "old@them.test", 1).await;
    // It names neither: who this is about nobody can tell.
    hand_in(&world, &path(Some("third@them.test")), &content).await;
    hand_in(&world, &path(None), &content).await;
    world.see("three reports", || (world.told("returned", "").len() == 3).then_some(())).await;
    assert_eq!(suppressed(&world), ["old@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_or_taken_within_bounds() {
    let (world, them) = world(|config| {
        config.inbound.max_message_size = ByteSize(1 << 20);
        config.inbound.memory_max = ByteSize(2 << 20);
    })
    .await;
    let (path, _) = return_path(&world, &them, &["a@them.test"]).await;
    let mut door = world.back().await;
    door.say("MAIL FROM:<> SIZE=1073741824", "552 5.3.4").await;
    let large = format!("Subject: large\r\n\r\n{}", "x".repeat(900).as_str().to_owned() + "\r\n").repeat(1200);
    let answer = hand_in_from(&world, "", &path, &large, "552 5.3.4").await;
    assert!(answer.contains("1048576"), "{answer}");
    // Hosts that hand it round and round.
    let looped = "Received: from a by b; x\r\n".repeat(101) + &report(&[&dead("a@them.test")]);
    hand_in_from(&world, "", &path, &looped, "554 5.4.6").await;
    // A hundred parts in one another; as many messages; and what unpacks to gigabytes, which nobody does.
    let mut deep = String::from("MIME-Version: 1.0\r\n");
    let mut nested = String::from("MIME-Version: 1.0\r\n");
    for level in 0..1000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary=\"b{level}\"\r\n\r\n--b{level}\r\n"));
        nested.push_str("Content-Type: message/rfc822\r\n\r\n");
    }
    let bomb = "From: reports@them.test\r\nMIME-Version: 1.0\r\nContent-Type: application/zip; name=report.zip\r\n\
                Content-Transfer-Encoding: base64\r\n\r\n"
        .to_owned()
        + &format!("{}\r\n", "UEsDBBQAAAAIAAAAIQ".repeat(4)).repeat(9000);
    for content in [deep, nested, bomb] {
        hand_in_from(&world, "", &path, &content, TAKEN).await;
    }
    // As many at once as memory has room for; the others hear of it, and nobody waits for ever.
    let mut answers = BTreeSet::new();
    let big = format!("Subject: big\r\n\r\n{}", format!("{}\r\n", "x".repeat(900)).repeat(1000));
    let world = Arc::new(world);
    let mut many = JoinSet::new();
    for _ in 0..20 {
        let (world, path, big) = (Arc::clone(&world), path.clone(), big.clone());
        many.spawn(async move { hand_in_or_hear(&world, &path, &big).await });
    }
    for answer in many.join_all().await {
        answers.insert(answer[..9].to_owned());
    }
    assert!(answers.iter().all(|answer| answer == TAKEN || answer == "452 4.3.1"), "{answers:?}");
    assert!(answers.contains(TAKEN), "{answers:?}");
    hand_in(&world, &path, &report(&[&dead("a@them.test")])).await;
    world.until("suppression", "a@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_ours_and_of_others_keep_the_senders_own_address() {
    let mut hosts = listeners(2).await.into_iter();
    let them = Peer::start(hosts.next().unwrap(), |ask| match ask.at {
        crate::peer::At::Rcpt if ask.text.contains("no@") => crate::peer::Do::Say("550 5.1.1 no such user"),
        _ => crate::peer::Do::Take,
    });
    let us = Peer::good(hosts.next().unwrap());
    let world = World::start(zone(&["them", "us"]), them.address().port(), |config| {
        config.feedback.bounce_domain = Some("b.us.test".parse().unwrap());
    })
    .await;
    world.send(&["no@them.test"]).await;
    // Our report goes to the client's own address, from nobody.
    world.until("delivered", "a@us.test", 1).await;
    let report = us.taken().remove(0);
    assert_eq!((report.recipient.as_str(), report.sender.as_str()), ("a@us.test", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_can_be_done_here() {
    let (mut world, them) = world(|config| {
        config.inbound.postmaster = Some("ops@them.test".parse().unwrap());
        config.submission.smtp.auth_without_tls = vec!["0.0.0.0/0".parse().unwrap()];
    })
    .await;
    let mut door = world.back().await;
    door.say("AUTH PLAIN AGEAYg==", "502 5.5.1").await;
    door.say("MAIL FROM:<a@us.test>", "250").await;
    door.say("RCPT TO:<a@them.test>", "550 5.7.1").await;
    door.say("RSET", "250").await;
    // No order of ours in a header is obeyed, and nothing is added.
    let (path, _) = return_path(&world, &them, &["bob@them.test"]).await;
    let content = "X-Posthaste-Nonsense: yes\r\nFrom: x@them.test\r\n\r\nhi";
    hand_in_from(&world, "x@them.test", &path, content, TAKEN).await;
    world.until("replied", "bob@them.test", 1).await;
    // Mail for the postmaster is handed on.
    for to in ["postmaster@b.us.test", "Abuse@b.us.test"] {
        hand_in_from(&world, "x@them.test", to, "From: x@them.test\r\nSubject: help\r\n\r\nhi", TAKEN).await;
    }
    world.until("delivered", "ops@them.test", 2).await;
    let taken = them.taken().pop().unwrap();
    assert_eq!((taken.sender.as_str(), taken.recipient.as_str()), ("", "ops@them.test"));
    assert!(taken.content.starts_with("Received: from [127.0.0.1]") && taken.content.contains("Subject: help"));
    assert_eq!(world.metric("posthaste_messages_accepted_total", &["inbound"]).await, 0.0);
    // Stopped and started again it knows its own tokens, and what it sent.
    assert!(world.stop(Duration::from_secs(10)).await);
    world.start_again().await;
    hand_in(&world, &path, &report(&[&dead("bob@them.test")])).await;
    world.until("suppression", "bob@them.test", 1).await;
}

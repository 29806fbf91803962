//! Whom return paths name: how many recipients a transaction has, and who can speak for whom.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{Config, VerpNames};
use posthaste::feedback::token::{Sent, Tokens};
use posthaste::mail::EnvelopeAddress;

use crate::inbound::{dead, hand_in, report, suppressed, world};
use crate::peer::{At, Do, Peer};
use crate::world::World;

const SHARED: VerpNames = VerpNames::Transaction;
const EACH: VerpNames = VerpNames::Recipient;
/// Two domains that one host takes.
const ALL: [&str; 4] = ["mallory@them.test", "victim@them.test", "third@them.test", "fourth@sub.them.test"];

/// A world with both domains of [`ALL`] at the one receiver.
async fn many(change: impl FnOnce(&mut Config)) -> (World, Peer) {
    let (mut world, them) = world(change).await;
    world.config.route = toml::from_str::<Config>(&format!(
        "[[route]]\nmatch = \"sub.them.test\"\nrelay = [\"127.0.0.2:{}\"]",
        them.address().port()
    ))
    .unwrap()
    .route;
    world.daemon().reload(&world.config).unwrap();
    (world, them)
}

fn reload(world: &mut World, verp: VerpNames) {
    world.config.feedback.verp = verp;
    world.daemon().reload(&world.config).unwrap();
}

/// Sends to all of these at once; the MAIL commands it took, and the return path that each saw.
async fn sent(world: &World, them: &Peer, to: &[&str]) -> (usize, Vec<String>) {
    let (taken, mails) = (them.count(), them.mails());
    world.send(to).await;
    world.see("deliveries", || (them.count() == taken + to.len()).then_some(())).await;
    let copies = them.taken().split_off(taken);
    let path = |to: &&str| copies.iter().find(|copy| copy.recipient == *to).unwrap().sender.clone();
    (them.mails() - mails, to.iter().map(path).collect())
}

fn tokens(world: &World) -> Tokens {
    Tokens::load_or_make(&world.path("tokens.key")).unwrap()
}

/// What a return path of ours says.
fn read(world: &World, path: &str) -> Sent {
    let token = path.strip_prefix("b+").unwrap().strip_suffix("@b.us.test").unwrap();
    tokens(world).read_sent(token, Clock.timestamp(), Duration::from_secs(3600)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_goes_alone_where_the_return_path_names_one() {
    let (mut world, them) = many(|_| {}).await;
    let (mails, paths) = sent(&world, &them, &ALL).await;
    assert_eq!((mails, BTreeSet::from_iter(&paths).len()), (ALL.len(), ALL.len()));
    for (path, to) in paths.iter().zip(ALL) {
        let address: EnvelopeAddress = to.parse().unwrap();
        let message = read(&world, path).message;
        assert_eq!(read(&world, path), Sent::to(message, [&address].into_iter()));
    }
    world.until("delivered", "", ALL.len()).await;
    // A reload, to and fro: each transaction is as the configuration in force has it.
    reload(&mut world, SHARED);
    let (mails, paths) = sent(&world, &them, &ALL[..3]).await;
    assert_eq!((mails, BTreeSet::from_iter(&paths).len()), (1, 1));
    assert!(read(&world, &paths[0]).recipient.is_none());
    reload(&mut world, EACH);
    assert_eq!(sent(&world, &them, &ALL[..3]).await.0, 3);
    // Mail that keeps its sender goes together as ever: a report, and that of senders without a bounce domain.
    world.config.feedback.bounce_domain = None;
    let own = ("other.test".parse().unwrap(), "b.us.test".parse().unwrap());
    world.config.feedback.bounce_domains = [own].into_iter().collect();
    reload(&mut world, EACH);
    let (mails, paths) = sent(&world, &them, &ALL[..3]).await;
    assert_eq!((mails, &*paths[0]), (1, "a@us.test"));
    let before = them.mails();
    world.door().await.send("", &ALL[..3], "").await;
    world.door().await.send("x@other.test", &ALL[..3], "").await;
    world.see("seven transactions", || (them.count() == 19).then_some(())).await;
    assert_eq!(them.mails() - before, 1 + 3);
    world.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_waited_goes_alone_after_a_reload_and_a_restart() {
    let (mut world, them) = many(|config| config.feedback.verp = SHARED).await;
    them.behave(|ask| if ask.at == At::Rcpt { Do::Say("451 4.2.0 busy") } else { Do::Take });
    for _ in 0..2 {
        world.send(&ALL).await;
    }
    world.until("deferred", "", 2 * ALL.len()).await;
    // What stood in line together is taken apart when its turn comes.
    reload(&mut world, EACH);
    them.behave(|_| Do::Take);
    world.until("delivered", "", 2 * ALL.len()).await;
    world.until_empty().await;
    let paths: BTreeSet<String> = them.taken().into_iter().map(|copy| copy.sender).collect();
    assert_eq!((them.count(), paths.len()), (2 * ALL.len(), 2 * ALL.len()));
    // And so is what the log gives back.
    them.behave(|ask| if ask.at == At::Rcpt { Do::Say("451 4.2.0 busy") } else { Do::Take });
    reload(&mut world, SHARED);
    world.send(&ALL).await;
    world.until("deferred", "fourth@", 3).await;
    assert!(world.stop(Duration::from_secs(10)).await);
    them.behave(|_| Do::Take);
    world.config.feedback.verp = EACH;
    world.start_again().await;
    world.until("delivered", "", 3 * ALL.len()).await;
    world.until_empty().await;
    let paths: BTreeSet<String> = them.taken().into_iter().map(|copy| copy.sender).collect();
    assert_eq!((them.count(), paths.len()), (3 * ALL.len(), 3 * ALL.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_that_mallory_has_suppresses_the_victim() {
    let (mut world, them) = many(|_| {}).await;
    let all = ALL.map(|address| address.parse::<EnvelopeAddress>().unwrap());
    let against = [
        report(&[&dead("victim@them.test")]),
        report(&[&format!("victim@them.test{}", dead("mallory@them.test"))]),
        report(&[&dead("victim@them.test"), &dead("mallory@them.test")]),
        // Words only.
        "From: MAILER-DAEMON@mx.them.test\r\nSubject: Undelivered Mail Returned to Sender\r\n\r\n\
         <victim@them.test>: host mx.them.test said: 550 5.1.1 User unknown"
            .to_owned(),
    ];
    let mut held = Vec::new();
    for verp in [EACH, SHARED] {
        reload(&mut world, verp);
        let (_, paths) = sent(&world, &them, &ALL).await;
        let message = read(&world, &paths[0]).message;
        // His own return path; those of the header, which all copies have (RFC 9477); and as versions before made them, for his
        // transaction and for several domains.
        held.push(paths[0].clone());
        for sent in [Sent::to(message, all.iter()), Sent::to(message, all[..3].iter()), Sent::any(message)] {
            held.push(format!("b+{}@b.us.test", tokens(&world).sent(sent)));
        }
        if verp == EACH {
            assert!(paths[1..].iter().all(|path| !held.contains(path)), "he has the victim's");
        }
    }
    // In either mode, whichever they are from.
    for verp in [SHARED, EACH] {
        reload(&mut world, verp);
        for path in &held {
            for content in &against {
                hand_in(&world, path, content).await;
            }
        }
    }
    world.until("returned", "", 2 * held.len() * against.len()).await;
    // For himself he may speak.
    let pays: BTreeSet<String> = suppressed(&world).into_iter().collect();
    assert_eq!(pays, BTreeSet::from(["mallory@them.test".to_owned()]));
    // What is said to a path that several share is told of whom it names.
    let told = world.told("returned", "victim@");
    assert!(told.iter().any(|event| event.text("what") == "failed" && event.text("reason") == "user-unknown"));
    // The victim's own host is believed, in either mode.
    let (_, paths) = sent(&world, &them, &["victim@them.test"]).await;
    reload(&mut world, SHARED);
    hand_in(&world, &paths[0], &against[0]).await;
    world.until("suppression", "victim@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_from_before_are_still_taken_and_told() {
    let (world, _them) = world(|_| {}).await;
    let addresses = ["a@them.test", "b@them.test", "c@other.test"].map(|address| address.parse().unwrap());
    let message = posthaste::mail::MessageId((Timestamp(Clock.timestamp().0 - 86_400_000)).0 << 22);
    for recipients in [&addresses[..1], &addresses[..2], &addresses[..]] {
        let path = format!("b+{}@b.us.test", tokens(&world).sent(Sent::to(message, recipients.iter())));
        hand_in(&world, &path, &report(&[&dead("a@them.test")])).await;
    }
    let told = world.until("returned", "", 3).await;
    // Nothing else is known of that message; who is alone in his token is known by it.
    let whom: Vec<&str> = told.iter().map(|event| event.recipient()).collect();
    assert_eq!(whom, ["a@them.test", "", ""]);
    assert_eq!(suppressed(&world), ["a@them.test"]);
}

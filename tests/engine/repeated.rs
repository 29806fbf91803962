//! What comes back more than once, also after a restart; what it counts for; and how it may come.

use std::time::Duration;

use posthaste::config::VerpNames;
use posthaste::feedback::token::{DomainHash, Sent, Tokens};
use posthaste::mail::MessageId;

use crate::complaints::{self, field, stage};
use crate::inbound::{TAKEN, dead, hand_in, report, return_path, suppressed, world};
use crate::submission::shake_hands;
use crate::world::World;

const GRACE: Duration = Duration::from_secs(10);

async fn restart(world: &mut World) {
    assert!(world.stop(GRACE).await);
    world.start_again().await;
}

/// The words that were told of what came back so far.
fn told(world: &World, name: &str) -> Vec<String> {
    world.told(name, "").iter().map(|event| event.text("what").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounce_counts_once_whatever_happens_in_between() {
    let (mut world, them) = world(|config| {
        config.suppression.hard_bounces = 2;
        config.suppression.hard_bounce_apart = Duration::ZERO;
    })
    .await;
    let (first, _) = return_path(&world, &them, &["gone@them.test"]).await;
    let (second, _) = return_path(&world, &them, &["gone@them.test"]).await;
    let full = "|gone@them.test|failed|5.2.2|552 5.2.2 mailbox full";
    for content in [report(&[full]), report(&[full]), report(&[&dead("gone@them.test")])] {
        hand_in(&world, &first, &content).await;
    }
    world.until("returned", "gone@them.test", 3).await;
    restart(&mut world).await;
    for content in [report(&[&dead("gone@them.test")]), report(&[full])] {
        hand_in(&world, &first, &content).await;
    }
    world.until("returned", "gone@them.test", 5).await;
    // That it is dead says more than that it is full, and was news; nothing after it was.
    assert_eq!(told(&world, "returned"), ["failed", "repeated", "failed", "repeated", "repeated"]);
    assert_eq!(suppressed(&world), [""; 0]);
    assert_eq!(world.metric("posthaste_bounces_total", &[]).await, 0.0, "since the restart");
    // Another message that fails is another failure.
    hand_in(&world, &second, &report(&[&dead("gone@them.test")])).await;
    world.until("suppression", "gone@them.test", 1).await;
    assert_eq!(world.metric("posthaste_bounces_total", &["user-unknown"]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_whom_a_shared_token_is_told() {
    let (world, them) = world(|config| config.feedback.verp = VerpNames::Transaction).await;
    let (path, id) = return_path(&world, &them, &["one@them.test", "two@them.test"]).await;
    let message: MessageId = id.parse().unwrap();
    let all = ["one@them.test", "two@them.test", "x@other.test"].map(|address| address.parse().unwrap());
    let tokens = Tokens::load_or_make(&world.path("tokens.key")).unwrap();
    let path_of = |sent: Sent| format!("b+{}@b.us.test", tokens.sent(sent));
    assert_eq!(path, path_of(Sent::to(message, all[..2].iter())));
    let content = report(&[&dead("one@them.test")]);
    // Of the same message, as somebody at another domain has it: he says nothing of these. Of recipients at many domains, and
    // at theirs: told, and nothing follows.
    let elsewhere = Sent { domain: Some(DomainHash::of(&all[2])), ..Sent::any(message) };
    for (place, path) in [path_of(elsewhere), path_of(Sent::to(message, all.iter())), path].iter().enumerate() {
        hand_in(&world, path, &content).await;
        let told = world.until("returned", "", place + 1).await;
        assert_eq!(told[place].recipient(), ["", "one@them.test", "one@them.test"][place]);
    }
    assert_eq!(suppressed(&world), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_that_come_at_once_are_one() {
    let (world, them) = world(|_| {}).await;
    let (path, _) = return_path(&world, &them, &["gone@them.test"]).await;
    let content = report(&[&dead("gone@them.test")]);
    let copy = || hand_in(&world, &path, &content);
    let (one, two, three, four) = tokio::join!(copy(), copy(), copy(), copy());
    assert!([&one, &two, &three, &four].iter().all(|answer| answer.starts_with(TAKEN)), "{one}{two}{three}{four}");
    world.until("returned", "gone@them.test", 4).await;
    let mut told = told(&world, "returned");
    told.sort();
    assert_eq!((told[0].as_str(), &told[1..]), ("failed", &["repeated"; 3].map(String::from)[..]));
    assert_eq!(suppressed(&world), ["gone@them.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complaint_counts_once_and_weighs_more_than_a_wish_to_leave() {
    let mut stage = stage(|_| {}).await;
    let content = stage.send("bob@them.test").await;
    let token = field(&content, "CFBL-Feedback-ID").to_owned();
    let said = |kind: &str| complaints::report(kind, "", &format!("CFBL-Feedback-ID: {token}\r\n"));
    stage.hand_in("fbl@b.us.test", &said("opt-out")).await;
    stage.hand_in("fbl@b.us.test", &said("abuse")).await;
    stage.complaints(2).await;
    restart(&mut stage.world).await;
    for kind in ["abuse", "opt-out"] {
        stage.hand_in("fbl@b.us.test", &said(kind)).await;
    }
    let told: Vec<String> = stage.complaints(4).await.iter().map(|event| event.text("reply").to_owned()).collect();
    assert_eq!(told, ["", "", "it was told before", "it was told before"]);
    let reasons: Vec<_> =
        stage.world.told("suppression", "").iter().map(|event| event.text("reason").to_owned()).collect();
    assert_eq!(reasons, ["unsubscribe", "complaint"]);
    assert_eq!(stage.world.metric("posthaste_complaints_total", &[]).await, 0.0, "since the restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_on_our_domains_count_once_and_say_who_signed_them() {
    let mut stage = stage(|_| {}).await;
    let dmarc = |id: &str, count: u32| {
        format!(
            "From: r@them.test\r\nSubject: Report\r\nContent-Type: text/xml\r\n\r\n<feedback><report_metadata>\
             <org_name>them</org_name><report_id>{id}</report_id><date_range><begin>1</begin><end>2</end></date_range>\
             </report_metadata><policy_published><domain>us.test</domain></policy_published><record><row>\
             <count>{count}</count></row></record></feedback>\r\n"
        )
    };
    let signed = stage.signed(&dmarc("1", 5));
    // A forged one of the same name comes first, and keeps nobody from counting the true one.
    for content in [&dmarc("1", 1000), &signed, &signed] {
        stage.hand_in("dmarc@b.us.test", content).await;
    }
    assert_eq!(stage.world.until("report", "", 3).await[1].0["details"]["signature"]["by"], "them.test");
    restart(&mut stage.world).await;
    for content in [&signed, &dmarc("1", 5), &dmarc("2", 7)] {
        stage.hand_in("dmarc@b.us.test", content).await;
    }
    let events = stage.world.until("report", "", 6).await;
    assert_eq!(told(&stage.world, "report"), ["dmarc", "dmarc", "repeated", "repeated", "repeated", "dmarc"]);
    for unsigned in [0, 5] {
        assert_eq!(events[unsigned].0["details"]["signature"]["lacks"], "no signature");
    }
    assert_eq!(stage.world.metric("posthaste_dmarc_messages_total", &["dmarc"]).await, 7.0, "since the restart");
    assert_eq!(stage.world.metric("posthaste_reports_total", &["repeated"]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_may_come_by_tls() {
    let key = rcgen::generate_simple_self_signed(vec!["mta.us.test".to_owned()]).unwrap();
    let (world, them) = world(|config| {
        let file = |name: &str, text: String| {
            let path = config.data_dir.join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        config.inbound.tls_cert_file = file("cert.pem", key.cert.pem());
        config.inbound.tls_key_file = file("key.pem", key.signing_key.serialize_pem());
    })
    .await;
    let (path, _) = return_path(&world, &them, &["gone@them.test"]).await;
    let mut door = world.back().await;
    // What was said in the clear does not count inside.
    door.say("MAIL FROM:<>", "250").await;
    door.say("STARTTLS", "220").await;
    let mut door = shake_hands(&world, door.into_inner()).await;
    door.say(&format!("RCPT TO:<{path}>"), "503").await;
    door.say("EHLO mx.them.test", "250").await;
    door.say("STARTTLS", "503").await;
    door.say("AUTH PLAIN AGEAYg==", "502").await;
    door.say("MAIL FROM:<>", "250").await;
    door.say("RCPT TO:<someone@them.test>", "550").await;
    door.say(&format!("RCPT TO:<{path}>"), "250").await;
    door.say("DATA", "354").await;
    door.say(&format!("{}\r\n.", report(&[&dead("gone@them.test")])), TAKEN).await;
    world.until("suppression", "gone@them.test", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_counts_users_who_turn_out_to_be_unknown() {
    let (world, them) = world(|config| {
        config.brake.recipients_min = 10;
        config.brake.unknown_users_min = 3;
    })
    .await;
    let headers = "X-Posthaste-Tenant: shop\r\nX-Posthaste-Class: bulk\r\nX-Posthaste-Campaign: spring\r\n";
    let mut paths = Vec::new();
    for number in 0..12 {
        world.send_with(&[&format!("user{number}@them.test")], headers).await;
        world.until("delivered", "user", number + 1).await;
        paths.push(them.taken().pop().unwrap().sender);
    }
    let explain = async || {
        let of = "address=next@them.test&tenant=shop&campaign=spring&class=bulk";
        world.http("GET", &format!("/v1/explain?{of}"), "").await.1
    };
    // Two, each of them twice: that is two.
    for number in [0, 1, 0, 1] {
        hand_in(&world, &paths[number], &report(&[&dead(&format!("user{number}@them.test"))])).await;
    }
    assert!(!explain().await.contains("paused by brake"), "{}", explain().await);
    // Full mailboxes are not unknown.
    hand_in(&world, &paths[3], &report(&["|user3@them.test|failed|5.2.2|552 5.2.2 mailbox full"])).await;
    assert!(!explain().await.contains("paused by brake"), "{}", explain().await);
    hand_in(&world, &paths[2], &report(&[&dead("user2@them.test")])).await;
    assert!(explain().await.contains("paused by brake"), "{}", explain().await);
}

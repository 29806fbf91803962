//! What senders hear of mail that was taken and came back.

use std::time::Duration;

use posthaste::config::{Config, ReportsSend, Scope, StreamReportsConfig};

use crate::inbound::{TAKEN, dead, hand_in, report};
use crate::peer::{At, Do, Peer};
use crate::world::{World, listeners, zone};

const GRACE: Duration = Duration::from_secs(10);

/// The receiver `them.test` takes everything, and so does the senders' own, `us.test`.
struct Stage {
    world: World,
    them: Peer,
    us: Peer,
}

async fn stage(change: impl FnOnce(&mut Config)) -> Stage {
    let mut hosts = listeners(2).await.into_iter();
    let (them, us) = (Peer::good(hosts.next().unwrap()), Peer::good(hosts.next().unwrap()));
    let world = World::start(zone(&["them", "us"]), them.address().port(), |config| {
        config.feedback.bounce_domain = Some("b.us.test".parse().unwrap());
        config.inbound.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.inbound.errors_max = 100_000;
        config.reports.stream = vec![StreamReportsConfig {
            scope: Scope { tenant: Some("shop".into()), ..Scope::default() },
            send: ReportsSend::Event,
            delays: false,
        }];
        change(config);
    })
    .await;
    Stage { world, them, us }
}

impl Stage {
    /// Sends with these parameters; the return paths that the recipients saw, in their order, and the message's id.
    async fn send(&self, from: &str, to: &[&str], headers: &str) -> (Vec<String>, String) {
        let before = self.them.count();
        let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
        let id = self.world.door().await.send_as(from, &to, headers).await;
        self.world.see("delivery", || (self.them.count() == before + to.len()).then_some(())).await;
        let copies = self.them.taken().split_off(before);
        let path = |to: &String| copies.iter().find(|copy| to.contains(&copy.recipient)).unwrap().sender.clone();
        (to.iter().map(path).collect(), id)
    }

    /// The reports that senders have once all is quiet.
    async fn reports(&self) -> Vec<String> {
        self.world.until_empty().await;
        self.us.taken().into_iter().map(|taken| taken.content).collect()
    }
}

/// A report with what is left of the message, whose header has the token in it as receivers write it.
fn with_original(report: &str, path: &str) -> String {
    let original = format!(
        "--x\r\nContent-Type: text/rfc822-headers\r\n\r\nReturn-Path: <{path}>\r\nReceived: from mta.us.test by mx.them.test\r\n \
         for <gone@them.test>\r\nX-Envelope-From: {path}\r\nMessage-ID: <7@us.test>\r\nSubject: hello\r\n\r\n--x--"
    );
    report.replace("--x--", &original)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sender_hears_once_what_came_back_in_our_words() {
    let mut stage = stage(|_| {}).await;
    let to = ["<gone@them.test> ORCPT=rfc822;first+40them.test"];
    let (paths, id) = stage.send("<a@us.test> ENVID=QQ1 RET=FULL", &to, "").await;
    let full = "|gone@them.test|failed|5.2.2|552 5.2.2 mailbox full";
    let said = report(&[full]).replace("Action:", "Remote-MTA: dns; Box.them.test\r\nAction:");
    let bounce = with_original(&said, &paths[0]);
    assert!(hand_in(&stage.world, &paths[0], &bounce).await.starts_with(TAKEN));
    stage.world.until("delivered", "a@us.test", 1).await;
    let taken = stage.us.taken().remove(0);
    assert_eq!((taken.sender.as_str(), taken.recipient.as_str()), ("", "a@us.test"));
    for line in [
        "From: Mail Delivery System <MAILER-DAEMON@mta.us.test>\r\n",
        "To: <a@us.test>\r\nSubject: Your message could not be delivered\r\n",
        "References: <7@us.test>\r\nAuto-Submitted: auto-replied\r\n",
        "and came back later. It was not delivered:",
        "The server box.them.test said:",
        "Reporting-MTA: dns; mta.us.test\r\nOriginal-Envelope-Id: QQ1\r\nArrival-Date: ",
        "\r\nOriginal-Recipient: rfc822; first@them.test\r\nFinal-Recipient: rfc822; gone@them.test\r\nAction: failed\r\n\
         Status: 5.2.2\r\nRemote-MTA: dns; box.them.test\r\nDiagnostic-Code: smtp; 552 5.2.2 mailbox full\r\n",
        "Message-ID: <7@us.test>\r\nSubject: hello\r\n",
    ] {
        assert!(taken.content.contains(line), "{line} in {}", taken.content);
    }
    // With the token in hand the sender could say anything of the recipient.
    let token = paths[0].strip_prefix("b+").unwrap().split_once('@').unwrap().0;
    assert!(!taken.content.contains(token) && !taken.content.contains("Received: from mta.us.test by"));
    let returned = stage.world.told("returned", "gone@").remove(0);
    let delivered = stage.world.told("delivered", "a@us.test").remove(0);
    assert_eq!((returned.text("report"), returned.text("message_id")), (delivered.text("message_id"), &*id));
    // A copy, another word on the same recipient, and both again after a restart: he has heard of it.
    for _ in 0..2 {
        hand_in(&stage.world, &paths[0], &bounce).await;
        hand_in(&stage.world, &paths[0], &report(&[&dead("gone@them.test")])).await;
        stage.world.until_empty().await;
        assert!(stage.world.stop(GRACE).await);
        stage.world.start_again().await;
    }
    let told: Vec<String> =
        stage.world.until("returned", "gone@", 5).await.iter().map(|event| event.text("what").to_owned()).collect();
    assert_eq!(told, ["failed", "repeated", "failed", "repeated", "repeated"]);
    assert_eq!(stage.reports().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_of_what_comes_back_is_who_hears_of_what_fails() {
    let stage = stage(|_| {}).await;
    let gone = "|gone@them.test|failed|5.1.1|550 5.1.1 no such user";
    let (shop, other) = ("X-Posthaste-Tenant: shop\r\n", "X-Posthaste-Tenant: other\r\n");
    let auto = "From: <gone@them.test>\r\nAuto-Submitted: auto-replied\r\nSubject: Out of office\r\n\r\nI am away.";
    let late = report(&["|gone@them.test|delayed|4.4.1|connection timed out"]);
    let arrived = report(&["|gone@them.test|delivered|2.1.5|250 2.1.5 in the mailbox"]);
    let failed = report(&[gone]);
    for (name, notify, headers, content, expected) in [
        ("plain", "", "", &failed, "failed"),
        ("other", "", other, &failed, "failed"),
        ("event", "", shop, &failed, ""),
        ("asked", " NOTIFY=FAILURE", shop, &failed, "failed"),
        ("never", " NOTIFY=NEVER", "", &failed, ""),
        ("success", " NOTIFY=SUCCESS", "", &failed, ""),
        ("late", " NOTIFY=FAILURE,DELAY", "", &late, ""),
        ("auto", " NOTIFY=SUCCESS,FAILURE,DELAY", "", &auto.to_owned(), ""),
        ("unasked", "", "", &arrived, ""),
        ("arrived", " NOTIFY=SUCCESS", shop, &arrived, "delivered"),
        // Free words, as some hosts write them.
        (
            "words",
            "",
            "",
            &"From: MAILER-DAEMON@them.test\r\nSubject: Undelivered Mail Returned to Sender\r\n\r\n\
              <gone@them.test>: 550 5.1.1 User unknown"
                .to_owned(),
            "failed",
        ),
    ] {
        let before = stage.us.count();
        let from = format!("<{name}@us.test>");
        let (paths, _) = stage.send(&from, &[&format!("<gone@them.test>{notify}")], headers).await;
        // Twice, as hosts do that did not hear us the first time.
        for _ in 0..2 {
            assert!(hand_in(&stage.world, &paths[0], content).await.starts_with(TAKEN));
        }
        stage.world.until_empty().await;
        let reports = stage.us.taken().split_off(before);
        assert_eq!(reports.len(), usize::from(!expected.is_empty()), "{name}");
        for report in reports {
            assert_eq!(report.recipient, format!("{name}@us.test"));
            assert!(report.content.contains(&format!("\r\nAction: {expected}\r\n")), "{name}: {}", report.content);
        }
    }
    // Nobody sent this: a report, say. Its return path is nobody's, so nothing can come back.
    let (paths, _) = stage.send("<>", &["<gone@them.test>"], "").await;
    assert_eq!(paths, [""]);
    // Of what nobody remembers nobody hears.
    let before = stage.us.count();
    let message = posthaste::mail::MessageId((posthaste::clock::Clock.timestamp().0 - 86_400_000) << 22);
    let address = "gone@them.test".parse().unwrap();
    let tokens = posthaste::feedback::token::Tokens::load_or_make(&stage.world.path("tokens.key")).unwrap();
    let sent = posthaste::feedback::token::Sent::to(message, [&address].into_iter());
    hand_in(&stage.world, &format!("b+{}@b.us.test", tokens.sent(sent)), &failed).await;
    stage.world.until_empty().await;
    assert_eq!(stage.us.count(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_fails_is_the_end_of_it() {
    let stage = stage(|_| {}).await;
    stage.us.behave(|ask| if ask.at == At::Rcpt { Do::Say("550 5.1.1 no such user") } else { Do::Take });
    let (paths, _) = stage.send("<a@us.test>", &["<gone@them.test>"], "").await;
    hand_in(&stage.world, &paths[0], &report(&[&dead("gone@them.test")])).await;
    stage.world.until("bounced", "a@us.test", 1).await;
    stage.world.until_empty().await;
    // And one whose sender is a return path of ours, as where one of us relays for another: it ends at the older message.
    stage.us.behave(|_| Do::Take);
    let (older, _) = stage.send("<b@us.test>", &["<first@them.test>"], "").await;
    let (newer, _) = stage.send(&format!("<{}>", older[0]), &["<second@them.test>"], "").await;
    let content = report(&[&format!("first@them.test{}", dead("second@them.test"))]);
    hand_in(&stage.world, &newer[0], &content).await;
    stage.world.until("bounced", "b.us.test", 1).await;
    stage.world.until_empty().await;
    let all: Vec<String> = stage.world.events().iter().map(|event| event.recipient().to_owned()).collect();
    assert!(!all.iter().any(|recipient| recipient == "b@us.test"), "no MX leads back here: {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_share_a_return_path_each_is_reported_once() {
    let stage = stage(|config| config.feedback.verp = posthaste::config::VerpNames::Transaction).await;
    let to = ["<one@them.test>", "<two@them.test> NOTIFY=NEVER", "<three@them.test>"];
    let (paths, _) = stage.send("<a@us.test>", &to, "").await;
    let said = |names: &[&str]| {
        report(
            &names
                .iter()
                .map(|name| dead(&format!("{name}@them.test")))
                .map(|line| line.leak() as &str)
                .collect::<Vec<_>>(),
        )
    };
    hand_in(&stage.world, &paths[0], &said(&["one", "two"])).await;
    hand_in(&stage.world, &paths[0], &said(&["two", "one", "three"])).await;
    let reports = stage.reports().await;
    let named = |name: &str| {
        let field = format!("Final-Recipient: rfc822; {name}@them.test\r\n");
        reports.iter().filter(|report| report.contains(&field)).count()
    };
    assert_eq!((reports.len(), named("one"), named("two"), named("three")), (2, 1, 0, 1));
    let told = stage.world.told("returned", "two@");
    assert!(told.iter().all(|event| event.0.get("report").is_none()), "{told:?}");
}

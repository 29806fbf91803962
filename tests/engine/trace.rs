//! `posthaste trace`: the built program, beside the daemon and without it.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::peer::{At, Do, Peer};
use crate::sendmail::{PROGRAM, run, said};
use crate::world::{World, listeners, zone};

async fn trace(world: &World, words: &[&str]) -> Output {
    let config = world.path("trace.toml");
    let admin = world.config.admin.listen;
    let data = world.path("");
    std::fs::write(
        &config,
        format!("hostname = \"mta.us.test\"\ndata_dir = {data:?}\n[admin]\nlisten = \"{admin}\"\n"),
    )
    .unwrap();
    let words = [&["trace", "--config", config.to_str().unwrap()], words].concat();
    run(Path::new(PROGRAM), &words, "").await
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_of_every_attempt_and_of_what_waits() {
    let mut tries = 0;
    let host = Peer::start(listeners(1).await.remove(0), move |ask| match (ask.at, ask.text.contains("late@")) {
        (At::Rcpt, true) => Do::Say("451 4.2.0 mailbox busy"),
        (At::Rcpt, false) => {
            tries += 1;
            if tries == 1 { Do::Say("450 4.7.1 greylisted") } else { Do::Take }
        }
        _ => Do::Take,
    });
    let mut world = World::start(zone(&["them"]), host.address().port(), |_| {}).await;
    world.config.admin.listen = world.daemon().admin_address();
    let id = world.send(&["b@them.test", "late@them.test"]).await;
    world.until("delivered", "b@them.test", 1).await;
    world.until("deferred", "late@them.test", 1).await;

    let output = trace(&world, &[&id]).await;
    let told = text(&output);
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    for part in [
        "sender    <a@us.test>\n",
        "<b@them.test>  deferred, attempt 1",
        "450 4.7.1 greylisted (the answer to RCPT)",
        "<b@them.test>  delivered, attempt 2",
        "to mx.them.test (127.0.0.2:",
        "still waiting, given up at ",
        "    <late@them.test>: due ",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let greylisted = told.find("greylisted").unwrap();
    assert!(greylisted < told.find("delivered").unwrap(), "{told}");

    let output = trace(&world, &[&id, "--json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = told["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["message_id"] == *id) && events.len() >= 3, "{told}");
    assert!(events.iter().all(|event| event["provider"] == "default"), "{told}");
    assert_eq!(told["queue"]["recipients"].as_array().unwrap().len(), 2);

    // Without the daemon there are the files.
    world.stop(Duration::from_secs(5)).await;
    let output = trace(&world, &[&id]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("<b@them.test>  delivered, attempt 2") && !text(&output).contains("still waiting"));
    assert!(said(&output).contains("no daemon answers at"), "{}", said(&output));

    for (words, code, why) in
        [(["0000000000001"], 1, "nothing is known of message 0000000000001"), (["short"], 2, "is not a message id")]
    {
        let output = trace(&world, &words).await;
        assert_eq!(output.status.code(), Some(code));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
}

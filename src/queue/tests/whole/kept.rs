//! What outlives a restart or a crash: what the brake said, and which source was greylisted.

use super::*;

/// Enough unknown users for the reputation brake.
fn brake(whole: &Whole) {
    let stream = Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() };
    let learned = [(Learned::Delivered, 200), (Learned::UnknownUser, 100)];
    whole
        .queue
        .with_actions(|scheduler, now, actions| scheduler.learn(now, &stream, ("", "google"), &learned, actions));
}

/// What was told of the brake in this life, in a word each.
fn brakes(whole: &Whole) -> Vec<String> {
    let told = whole.told.lock().unwrap().clone();
    let lines = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == "brake").map(|line| line["what"].as_str().unwrap().to_owned()).collect()
}

/// The brake holds at once. A crash takes its order, its event, both or none, according to what was on disk; what it took the
/// brake gives and tells again.
#[tokio::test]
async fn the_brake_is_told_and_holds_whatever_a_crash_takes() {
    for (told, kept) in [(false, false), (false, true), (true, false), (true, true)] {
        let (files, facts) = (SimFiles::new(1), SimFiles::new(2));
        let whole = Whole::start(files.clone());
        let ledger = Arc::new(Ledger::open_small(&facts));
        whole.queue.recall(&ledger).unwrap();
        if !kept {
            facts.cut();
        }
        brake(&whole);
        assert_eq!(whole.queue.orders().len(), 1, "it waits for no disk");
        let known = || ledger.scan(crate::ledger::Table::Orders, b"").unwrap().len();
        while kept && known() == 0 {
            others().await;
        }
        if told {
            whole.spool.step();
        }
        assert_eq!(brakes(&whole), if told { vec!["paused"] } else { vec![] }, "it is told once it is on disk");
        // What was told did not come as far as the event log's disk.
        files.cut();
        facts.cut();
        whole.spool.close();
        ledger.close();
        files.restart();
        facts.restart();

        let after = Whole::start(files.clone());
        let ledger = Arc::new(Ledger::open_small(&facts));
        after.queue.recall(&ledger).unwrap();
        assert_eq!(after.queue.orders().len(), usize::from(kept), "told {told}, kept {kept}");
        assert_eq!(brakes(&after).len(), usize::from(told), "told {told}, kept {kept}");
        if !kept || !told {
            brake(&after);
            assert_eq!(after.queue.orders().len(), 1);
            after.spool.step();
            assert_eq!(brakes(&after).len(), 1 + usize::from(told), "told {told}, kept {kept}");
        }
        after.spool.close();
        ledger.close();
        after.log.close();
    }
}

#[tokio::test]
async fn which_source_was_greylisted_outlives_a_restart() {
    let two = || toml::from_str("[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"\n").unwrap();
    let ledger = Arc::<Ledger>::default();
    let whole = Whole::with(SimFiles::new(1), two(), Arc::default());
    whole.queue.recall(&ledger).unwrap();
    whole.queue.recall_wishes(&ledger).unwrap();
    let b = whole.queue.parts.load().egress.source_named("b").unwrap();
    let messages = [whole.accept(1), whole.accept(1), whole.accept(1)];
    let item = |message| Item { message, host: 0, attempts: 1, spoilt: 0, late: false, recipients: Recipients::One(0) };
    for (message, wish) in messages.into_iter().zip([Wish::Keep(b), Wish::Leave(b), Wish::Keep(b)]) {
        whole.queue.lock().wish(&item(message), Some(wish));
    }
    let kept = || ledger.scan(Table::Wishes, b"").unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let key = |n: usize| messages[n].0.to_be_bytes().to_vec();
    whole.queue.keep_all().await;
    assert_eq!(kept(), [key(0), key(2)], "to go elsewhere is of no use later");
    // The attempt is over.
    whole.queue.lock().wish(&item(messages[2]), None);
    whole.queue.keep_all().await;
    assert_eq!(kept(), [key(0)]);

    whole.files.restart();
    let after = Whole::with(whole.files.clone(), two(), Arc::default());
    after.queue.recall(&ledger).unwrap();
    after.queue.recall_wishes(&ledger).unwrap();
    assert_eq!(after.queue.census().wishes, 1);
    let known = after.queue.lock().wishes_changed();
    assert_eq!(known, [(messages[0], vec![("b.example".to_owned(), "b".to_owned())])]);

    // A spool without that mail: nothing is left of it.
    let empty = Whole::with(SimFiles::new(2), two(), Arc::default());
    empty.queue.recall(&ledger).unwrap();
    empty.queue.recall_wishes(&ledger).unwrap();
    empty.queue.keep_all().await;
    assert_eq!((empty.queue.census().wishes, kept().len()), (0, 0));
}

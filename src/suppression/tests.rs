//! The list as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::telling::tests::Book;
use super::*;
use crate::config::{LedgerConfig, SuppressionScope};
use crate::log::{DiskFiles, sim};
use crate::mail::Class;

const NOW: Timestamp = Timestamp(1_795_348_800_000);
const HOUR: Duration = Duration::from_secs(3600);

fn stream(tenant: &str, campaign: &str) -> Stream {
    Stream { tenant: tenant.into(), class: Class::Bulk, campaign: campaign.into() }
}

fn entry(scope: &str, subject: &str) -> Entry {
    Entry {
        subject: subject.parse().unwrap(),
        scope: scope.parse().unwrap(),
        reason: Reason::Manual,
        evidence: "".into(),
        source: "test".into(),
        since: NOW,
        until: None,
    }
}

fn open_on(dir: &Path) -> (Arc<Ledger>, Suppressions) {
    let config = LedgerConfig::default();
    let ledger = Ledger::open(dir, &config, Arc::new(DiskFiles), Arc::new(Metrics::new()), Clock).unwrap();
    let ledger = Arc::new(ledger);
    (Arc::clone(&ledger), open(ledger))
}

fn open(ledger: Arc<Ledger>) -> Suppressions {
    Suppressions::open(ledger, &SuppressionConfig::default(), Arc::new(Metrics::new()), Clock).unwrap()
}

/// The scope of the entry that keeps mail of `shop` to the list `news` away, or an empty text.
#[track_caller]
fn scope_of(list: &Suppressions, address: &str) -> String {
    let found = list.check(&stream("shop", "spring"), Some("news"), &address.parse().unwrap(), NOW).unwrap();
    found.map_or(String::new(), |entry| entry.scope.to_string())
}

fn batch(entries: &[Entry]) -> Batch {
    let mut batch = Batch::default();
    entries.iter().for_each(|entry| batch.push(entry));
    batch
}

#[tokio::test]
async fn who_is_meant() {
    let rules = |subaddress, subdomains| SuppressionConfig { subaddress, subdomains, ..SuppressionConfig::default() };
    let hash = Subject::Hash("Known+Hash@hash.example".to_lowercase().parse::<Subject>().unwrap().name()).to_string();
    let hash = hash.as_str();
    let cases = [
        ("global", "Ann@Us.example", (false, false), "aNN@us.EXAMPLE", "global"),
        ("global", "ann@us.example", (false, false), "bob@us.example", ""),
        ("tenant:shop", "ann@us.example", (false, false), "ann@us.example", "tenant:shop"),
        ("tenant:other", "ann@us.example", (false, false), "ann@us.example", ""),
        ("list:shop/news", "ann@us.example", (false, false), "ann@us.example", "list:shop/news"),
        ("list:shop/else", "ann@us.example", (false, false), "ann@us.example", ""),
        ("list:other/news", "ann@us.example", (false, false), "ann@us.example", ""),
        ("global", "@us.example", (false, false), "ann@us.example", "global"),
        ("global", "@us.example", (false, false), "ann@sub.us.example", ""),
        ("global", "@us.example", (false, true), "ann@deep.sub.us.example", "global"),
        ("global", "@us.example", (false, true), "ann@us.example.net", ""),
        ("global", "ann@us.example", (false, false), "ann+tag@us.example", ""),
        ("global", "ann@us.example", (true, false), "ann+tag@us.example", "global"),
        ("global", "ann+tag@us.example", (true, false), "ann@us.example", ""),
        ("global", "ann+tag@us.example", (true, false), "ann+tag@us.example", "global"),
        ("global", hash, (false, false), "known+hash@HASH.example", "global"),
        ("global", hash, (false, false), "known@hash.example", ""),
        ("global", "jürgen@bücher.example", (false, false), "JÜRGEN@xn--bcher-kva.example", "global"),
        ("global", "ann@[192.0.2.1]", (false, true), "ANN@[192.0.2.1]", "global"),
    ];
    for (scope, subject, (subaddress, subdomains), address, expected) in cases {
        for run in [false, true] {
            let list = Suppressions::default();
            list.reload(&rules(subaddress, subdomains));
            match run {
                false => list.add(vec![entry(scope, subject)]).await.unwrap(),
                true => assert_eq!(list.add_run(batch(&[entry(scope, subject)]), "test").unwrap(), 1),
            }
            assert_eq!(scope_of(&list, address), expected, "{subject} in {scope}, {address}, run: {run}");
        }
    }
}

#[test]
fn words_read_as_they_are_written() {
    for scope in ["global", "tenant:shop", "tenant:", "list:shop/news", "list:shop/a/b:c", "list:a%2Fb%25/c%25"] {
        assert_eq!(scope.parse::<Scope>().unwrap().to_string(), scope);
    }
    let of_slash = Scope::List { tenant: "a/b%".into(), list: "c%".into() };
    assert_eq!(of_slash.to_string(), "list:a%2Fb%25/c%");
    assert_eq!(of_slash.to_string().parse(), Ok(of_slash));
    for wrong in ["", "Global", "shop", "list:news", "list:shop/", "tenant:a\nb"] {
        assert_eq!(wrong.parse::<Scope>(), Err(TextError::Scope), "{wrong:?}");
    }
    let hash = "sha256:00ff10a0b0c0d0e0f0000000000000000000000000000000000000000000abcd";
    for subject in ["ann@us.example", "@us.example", hash] {
        assert_eq!(subject.parse::<Subject>().unwrap().to_string(), subject);
    }
    assert_eq!(hash["sha256:".len()..].to_uppercase().parse::<Subject>().unwrap().to_string(), hash);
    for wrong in ["sha256:00", &"g".repeat(64), "sha256:ann@us.example"] {
        assert_eq!(wrong.parse::<Subject>(), Err(TextError::Hash), "{wrong:?}");
    }
    assert!(matches!("nobody".parse::<Subject>(), Err(TextError::Address(_))));
    assert!(matches!("@-".parse::<Subject>(), Err(TextError::Domain(_))));
}

#[tokio::test]
async fn the_later_word_counts() {
    let list = Suppressions::default();
    let ann = || entry("global", "ann@us.example");
    let (scope, subject) = (ann().scope, ann().subject);
    let is_there = |expected: bool| assert_eq!(scope_of(&list, "ann@us.example"), if expected { "global" } else { "" });
    assert!(!list.remove(&scope, &subject).await.unwrap());
    list.add(vec![ann()]).await.unwrap();
    is_there(true);
    assert!(list.remove(&scope, &subject).await.unwrap());
    is_there(false);
    assert_eq!(list.counts(), [0, 0, 0]);
    // In a run, and then not.
    list.add_run(batch(&[ann(), ann()]), "test").unwrap();
    is_there(true);
    assert!(list.remove(&scope, &subject).await.unwrap());
    is_there(false);
    assert!(!list.remove(&scope, &subject).await.unwrap());
    // A later run brings it back, a hash of it is the same.
    list.add_run(batch(&[Entry { subject: Subject::Hash(subject.name()), ..ann() }]), "test").unwrap();
    is_there(true);
    assert!(list.remove(&scope, &subject).await.unwrap());
    is_there(false);
    // An entry by itself over one of a run, in time.
    list.add(vec![Entry { until: Some(NOW), ..ann() }]).await.unwrap();
    is_there(false);
    list.add(vec![Entry { until: Some(NOW.after(HOUR)), ..ann() }]).await.unwrap();
    is_there(true);
    assert!(list.remove(&scope, &subject).await.unwrap());
    is_there(false);
}

/// Chance does what people do; a map says what must come of it.
#[tokio::test]
async fn as_a_map_would_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, mut list) = open_on(dir.path());
    let mut model: BTreeMap<(String, String), Option<Timestamp>> = BTreeMap::new();
    let mut dice = SmallRng::seed_from_u64(11);
    let scopes = ["global", "tenant:shop", "list:shop/news", "tenant:other"];
    for round in 0..60 {
        let mut some = |count: usize| -> Vec<Entry> {
            let mut one = || {
                let subject = match dice.random_range(0..10) {
                    0 => format!("@d{}.example", dice.random_range(0..50)),
                    1 => Subject::Hash(name_of(format!("h{}@x.example", dice.random_range(0..300)).as_bytes()))
                        .to_string(),
                    _ => format!("user{}@d{}.example", dice.random_range(0..600), dice.random_range(0..3)),
                };
                // Long after the clock that merges go by.
                let until = dice.random_bool(0.2).then(|| Timestamp(4_102_444_800_000 + dice.random_range(1..100)));
                Entry { until, ..entry(scopes[dice.random_range(0..scopes.len())], &subject) }
            };
            (0..count).map(|_| one()).collect()
        };
        let new = some(if round % 3 == 0 { 800 } else { 12 });
        for entry in &new {
            model.insert((entry.scope.to_string(), entry.subject.to_string()), entry.until);
        }
        match round % 3 {
            0 => drop(list.add_run(batch(&new), "test").unwrap()),
            _ => list.add(new).await.unwrap(),
        }
        for entry in some(40) {
            let there = model.remove(&(entry.scope.to_string(), entry.subject.to_string())).is_some();
            assert_eq!(list.remove(&entry.scope, &entry.subject).await.unwrap(), there, "{entry:?}");
        }
        if round == 20 || round == 40 {
            drop(list);
            ledger.close();
            drop(ledger);
            if round == 40 {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            (ledger, list) = open_on(dir.path());
        }
        if round % 10 == 9 {
            assert_eq!(all(&list, dice.random_range(1..300)), model, "round {round}");
        }
    }
    for n in 0..600 {
        let address = format!("user{n}@d1.example");
        let said = |scope: &str| {
            let subjects = [address.clone(), "@d1.example".to_owned()];
            subjects.into_iter().any(|subject| model.contains_key(&(scope.to_owned(), subject)))
        };
        let expected = scopes[..3].iter().find(|scope| said(scope)).copied().unwrap_or_default();
        assert_eq!(scope_of(&list, &address), expected, "{address}");
    }
}

fn all(list: &Suppressions, page: usize) -> BTreeMap<(String, String), Option<Timestamp>> {
    let (mut found, mut from) = (BTreeMap::new(), Some(0));
    while let Some(start) = from {
        let listed = list.list(start, page).unwrap();
        for entry in listed.entries {
            let before = found.insert((entry.scope.to_string(), entry.subject.to_string()), entry.until);
            assert_eq!(before, None, "{:?} comes twice", entry.subject);
        }
        from = listed.next;
    }
    found
}

#[tokio::test]
async fn somebody_on_more_lists_than_a_page_holds() {
    let list = Suppressions::default();
    let lists: Vec<Entry> = (0..50).map(|n| entry(&format!("list:shop/l{n}"), "ann@us.example")).collect();
    list.add(lists).await.unwrap();
    list.add((0..50).map(|n| entry("global", &format!("u{n}@us.example"))).collect()).await.unwrap();
    assert_eq!(all(&list, 7).len(), 100);
    assert_eq!(list.find(&"ann@us.example".parse().unwrap()).unwrap().len(), 50);
    assert_eq!(list.counts(), [50, 0, 50]);
}

fn evidence<'a>(
    cause: Reason,
    address: &'a EnvelopeAddress,
    stream: &'a Stream,
    n: u32,
    at: Timestamp,
) -> Evidence<'a> {
    Evidence { cause, address, stream, list: Some("news"), evidence: format!("m{n}"), source: "smtp", at }
}

#[tokio::test]
async fn failures_are_counted_until_the_address_takes_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, list) = open_on(dir.path());
    let rules = SuppressionConfig { hard_bounces: 2, hard_bounce_apart: HOUR * 6, ..SuppressionConfig::default() };
    list.reload(&rules);
    let (ann, shop): (EnvelopeAddress, _) = ("ann@us.example".parse().unwrap(), stream("shop", "spring"));
    let fail = async |list: &Suppressions, n, hours: u32| {
        let evidence = evidence(Reason::HardBounce, &ann, &shop, n, NOW.after(HOUR * hours));
        let made = list.learn(evidence, |_| Vec::new()).await.unwrap();
        made.map(|entry| entry.scope.to_string())
    };
    assert_eq!(fail(&list, 1, 0).await, None);
    assert!(list.has_failures(&ann));
    // The same hour, and the same message, do not count.
    assert_eq!(fail(&list, 2, 1).await, None);
    assert_eq!(fail(&list, 1, 12).await, None);
    list.accepted(&ann).await.unwrap();
    assert_eq!(fail(&list, 3, 24).await, None);
    // It is out of the window when the next comes.
    assert_eq!(fail(&list, 4, 24 * 92).await, None);
    drop(list);
    ledger.close();
    drop(ledger);
    let (_ledger, list) = open_on(dir.path());
    list.reload(&rules);
    assert_eq!(fail(&list, 5, 24 * 93).await.as_deref(), Some("global"));
    assert_eq!(scope_of(&list, "ann@us.example"), "global");
    // There is one that says as much.
    assert_eq!(fail(&list, 6, 24 * 94).await, None);
    let rules = SuppressionConfig { hard_bounces: 0, ..SuppressionConfig::default() };
    list.reload(&rules);
    assert!(list.remove(&Scope::Global, &Subject::address(&ann)).await.unwrap());
    assert_eq!(fail(&list, 7, 24 * 95).await, None);
    list.reload(&SuppressionConfig { hard_bounces: 1, ..rules });
    assert_eq!(fail(&list, 8, 24 * 96).await.as_deref(), Some("global"));
}

#[tokio::test]
async fn causes_have_their_scopes_and_times() {
    let list = Suppressions::default();
    let (ann, shop): (EnvelopeAddress, _) = ("Ann+x@us.example".parse().unwrap(), stream("shop", "spring"));
    let book = Book::default();
    list.connect(book.clone());
    list.reload(&SuppressionConfig {
        complaint_scope: SuppressionScope::List,
        unsubscribe_keep: HOUR,
        subaddress: true,
        ..SuppressionConfig::default()
    });
    let line = |entry: &Entry| format!("chain {}\n", entry.evidence).into_bytes();
    let made = list.learn(evidence(Reason::Complaint, &ann, &shop, 1, NOW), line).await.unwrap().unwrap();
    assert_eq!((made.scope.to_string(), made.until), ("list:shop/news".into(), None));
    assert_eq!((&*made.evidence, &*made.source, made.subject.to_string()), ("m1", "smtp", "ann@us.example".into()));
    // It says as much, and more.
    assert_eq!(list.learn(evidence(Reason::Unsubscribe, &ann, &shop, 2, NOW), line).await.unwrap(), None);
    let bob = "bob@us.example".parse().unwrap();
    let made = list.learn(evidence(Reason::Unsubscribe, &bob, &shop, 3, NOW), line).await.unwrap().unwrap();
    assert_eq!(made.until, Some(NOW.after(HOUR)));
    assert_eq!(scope_of(&list, "bob@us.example"), "list:shop/news");
    list.expire(NOW.after(HOUR)).await.unwrap();
    assert_eq!(list.counts(), [0, 0, 1]);
    list.expire(NOW.after(HOUR * 2)).await.unwrap();
    list.add_run(batch(&[entry("global", "a@b.example"), entry("global", "c@b.example")]), "import").unwrap();
    list.remove_by(&Scope::Global, &"a@b.example".parse().unwrap(), "ops").await.unwrap();
    let expected =
        ["chain m1", "chain m3", "expired bob@us.example 1 daemon", "added  2 import", "removed a@b.example 1 ops"];
    assert_eq!(book.told(), expected);
}

#[tokio::test]
async fn what_ended_and_was_replaced_is_not_ended_again() {
    let list = Suppressions::default();
    let until = |until| Entry { until, ..entry("global", "ann@us.example") };
    list.add(vec![until(Some(NOW))]).await.unwrap();
    list.add(vec![until(None)]).await.unwrap();
    list.expire(NOW.after(HOUR)).await.unwrap();
    assert_eq!(scope_of(&list, "ann@us.example"), "global");
    // Of a run: it is written anew without them, a day later.
    list.add_run(batch(&[Entry { until: Some(Timestamp(1)), ..entry("tenant:shop", "bob@us.example") }]), "x").unwrap();
    assert_eq!(list.counts(), [1, 0, 0], "the daemon's clock is long past");
    assert_eq!(all(&list, 10).len(), 1);
}

/// The power goes at any sync: an import is there whole or not at all, and the next one works.
#[test]
fn a_crash_leaves_an_import_whole_or_not_at_all() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let many: Vec<Entry> = (0..1500).map(|n| entry("global", &format!("user{n}@us.example"))).collect();
    for nth in 0..40 {
        let files = sim::SimFiles::new(nth);
        let list = open(Arc::new(Ledger::open_small(&files)));
        runtime.block_on(list.add(vec![entry("global", "first@us.example")])).unwrap();
        files.fail(sim::Deed::Sync, nth, sim::Fault::PowerCut);
        let stored = list.add_run(batch(&many), "test");
        list.store.ledger.close();
        files.cut();
        files.restart();
        let list = open(Arc::new(Ledger::open_small(&files)));
        assert_eq!(scope_of(&list, "first@us.example"), "global");
        let there = many.iter().filter(|entry| !scope_of(&list, &entry.subject.to_string()).is_empty()).count();
        assert!(there == many.len() || there == 0 && stored.is_err(), "{there} after {nth} syncs, {stored:?}");
        let left = list.store.remove_orphans(list.store.epoch()).unwrap();
        assert!(left == 0 || there == 0, "{left} blocks left");
        assert_eq!(list.store.remove_orphans(list.store.epoch()).unwrap(), 0);
        list.add_run(batch(&many), "test").unwrap();
        assert_eq!(all(&list, 500).len(), many.len() + 1);
    }
}

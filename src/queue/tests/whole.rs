//! The queue over a spool whose log writes when it is told to, and an event log.

mod kept;

use std::path::Path;
use std::sync::Mutex;

use super::super::*;
use crate::config::{ByteSize, Config, EventsConfig};
use crate::events::EventLog;
use crate::feedback::marks::Marks;
use crate::feedback::token::Tokens;
use crate::ledger::Table;
use crate::log::sim::SimFiles;
use crate::log::{Drive, Files, LogOptions};
use crate::mail::{Class, Envelope, Recipient, Stream};
use crate::queue::scheduler::{Item, Recipients, Wish};
use crate::shaping::steering::Learned;
use crate::spool::{Message, Outlets};

struct Whole {
    queue: Arc<Queue>,
    spool: Arc<Spool>,
    /// What the spool exported.
    told: Arc<Mutex<String>>,
    files: SimFiles,
    log: Arc<EventLog>,
    _dir: tempfile::TempDir,
}

impl Whole {
    fn start(files: SimFiles) -> Whole {
        Whole::with(files, Config::default(), Arc::default())
    }

    fn with(files: SimFiles, mut config: Config, list: Arc<Suppressions>) -> Whole {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let log = Arc::new(EventLog::open(dir.path(), &EventsConfig::default(), Arc::clone(&metrics)).unwrap().0);
        let told = Arc::new(Mutex::new(String::new()));
        let (telling, writing) = (Arc::clone(&told), Arc::clone(&log));
        let export = Arc::new(move |position, lines: bytes::Bytes| {
            telling.lock().unwrap().push_str(std::str::from_utf8(&lines).unwrap());
            writing.write(position, lines);
        });
        config.spool.cache_size = ByteSize(0);
        (config.spool.segment_size, config.spool.disk_free_min) = (ByteSize(64 << 10), ByteSize(0));
        let options = LogOptions { drive: Drive::Stepped(Arc::new(|| {})), ..LogOptions::new(Path::new("/spool")) };
        let outlets = Outlets { exported: None, export, ledger: Arc::default() };
        let (disk, counts) = (Arc::new(files.clone()), Arc::clone(&metrics));
        let (spool, mut opened) = Spool::open_with(options, &config.spool, disk, counts, outlets, Clock).unwrap();
        let hostname: Domain = "us.example".parse().unwrap();
        config.dns.nameservers = vec![([127, 0, 0, 1], 9).into()];
        let parts = Parts {
            router: Router::new(&config.dns, &config.delivery, &[]).unwrap(),
            client: Client::new(&config.delivery, &hostname, Arc::clone(&metrics)),
            signer: Arc::new(Signer::load(&[]).0),
            retry: RetryPolicy::new(&config.retry),
            expire_after: config.retry.expire_after,
            delivery: config.delivery.clone(),
            egress: Arc::new(Egress::new(&config, None).unwrap()),
            profiles: Arc::new(crate::shaping::provider::Profiles::built_in()),
            rows: Rows::new(&config.limit),
            steering: SteeringPolicy::new(&config.brake, &config.warmup),
            spool: config.spool.clone(),
            hostname: hostname.clone(),
            archive: Archive::new(dir.path(), 1),
            reports: config.reports.clone(),
            verp: Verp::new(&config.feedback, Arc::new(Tokens::new(b"0123456789abcdef"))),
            marks: Marks::new(&config.feedback, &hostname, Arc::new(Tokens::new(b"0123456789abcdef"))),
        };
        let pool = SigningPool::new(1, Clock, Arc::clone(&metrics));
        let chance = rand::SeedableRng::seed_from_u64(1);
        let queue = Queue::new(Arc::clone(&spool), list, parts, pool, metrics, Clock, chance);
        queue.follow_events(log.progress());
        spool.restore(&mut opened, &mut |restored| queue.restore(restored)).unwrap();
        Whole { queue, spool, told, files, log, _dir: dir }
    }

    /// A message that waits for an hour.
    fn accept(&self, recipients: usize) -> MessageId {
        let now = Clock.timestamp();
        let id = self.spool.next_id(now);
        let mut envelope = Envelope::unreadable(Stream::default(), now);
        envelope.recipients =
            (0..recipients).map(|n| format!("r{n}@b.example").parse().unwrap()).map(Recipient::new).collect();
        envelope.not_before = now.after(Duration::from_secs(3600));
        envelope.expires_at = now.after(Duration::from_secs(7200));
        let message = Arc::new(Message::new(id, envelope, bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n")));
        let queue = Arc::clone(&self.queue);
        self.spool.accept([message], move |accepted| queue.admit(&accepted.unwrap(), &Recipients::None));
        self.spool.step();
        id
    }

    /// Overwrites the first octets of `what` in each file.
    fn spoil(&self, what: &str) {
        for path in self.files.paths() {
            let Ok(file) = self.files.open(&path, false) else { continue };
            let mut octets = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut octets, 0).unwrap();
            if let Some(at) = memchr::memmem::find(&octets, what.as_bytes()) {
                assert!(self.files.damage(&path, at as u64, |octets| octets[0] ^= 0xff));
            }
        }
    }

    fn cancel(&self, id: MessageId) -> tokio::task::JoinHandle<Result<Cancelled, QueryError>> {
        let queue = Arc::clone(&self.queue);
        tokio::spawn(async move { queue.cancel(vec![id]).await })
    }
}

impl Whole {
    /// A message that nobody may send yet, for an order holds everything.
    fn accept_held(&self, n: usize) -> MessageId {
        let now = Clock.timestamp();
        let id = self.spool.next_id(now);
        let mut envelope = Envelope::unreadable(Stream::default(), now);
        envelope.recipients = vec![Recipient::new(format!("r{n}@[11.0.0.{}]", n % 200 + 1).parse().unwrap())];
        envelope.expires_at = now.after(Duration::from_secs(7200));
        let message = Arc::new(Message::new(id, envelope, bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n")));
        let queue = Arc::clone(&self.queue);
        self.spool.accept([message], move |accepted| queue.admit(&accepted.unwrap(), &Recipients::None));
        id
    }
}

/// Lets all others do what they can. The runtime has one thread.
async fn others() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_asks_again_is_answered_when_it_is_on_disk() {
    let whole = Whole::start(SimFiles::new(1));
    let id = whole.accept(2);
    let first = whole.cancel(id);
    others().await;
    // Nothing is left to take back, but nothing is on disk either.
    let second = whole.cancel(id);
    let nobody = whole.cancel(MessageId(1));
    others().await;
    assert!(!first.is_finished() && !second.is_finished() && !nobody.is_finished());
    whole.spool.step();
    let first = first.await.unwrap().unwrap();
    assert_eq!((first.messages, first.recipients, first.in_flight), (1, 2, 0));
    assert_eq!(second.await.unwrap().unwrap(), Cancelled::default());
    assert_eq!(nobody.await.unwrap().unwrap(), Cancelled::default());
}

#[tokio::test]
async fn the_status_of_a_message_that_just_ended_waits_for_its_last_event() {
    let whole = Whole::start(SimFiles::new(1));
    let id = whole.accept(1);
    assert!(whole.queue.status(id).await.unwrap().unwrap().waiting);
    let cancelled = whole.cancel(id);
    others().await;
    let queue = Arc::clone(&whole.queue);
    let status = tokio::spawn(async move { queue.status(id).await });
    others().await;
    assert!(!status.is_finished(), "its end is not on disk");
    whole.spool.step();
    let status = status.await.unwrap().unwrap().expect("it is known");
    assert_eq!((status.waiting, status.recipients[0].view.state.as_str()), (false, "cancelled"));
    cancelled.await.unwrap().unwrap();
    // One that never was is not waited for.
    assert!(whole.queue.status(whole.spool.next_id(Clock.timestamp())).await.unwrap().is_none());
}

#[tokio::test]
async fn a_message_taken_back_that_cannot_be_read_comes_to_its_end() {
    let whole = Whole::start(SimFiles::new(1));
    let id = whole.accept(1);
    whole.spoil("b.example");
    let cancelled = whole.cancel(id);
    others().await;
    whole.spool.step();
    assert_eq!(cancelled.await.unwrap().unwrap().recipients, 1);
    let told = whole.told.lock().unwrap().clone();
    assert!(told.contains("\"cancelled\"") && told.contains(&id.to_string()) && !told.contains("b.example"), "{told}");
    assert_eq!(whole.queue.open_recipients(), 0);
}

#[tokio::test]
async fn what_was_taken_back_in_flight_ends_as_cancelled_after_a_crash() {
    let whole = Whole::start(SimFiles::new(1));
    let id = whole.accept(2);
    // As with a session that waits for a reply: it counts as in flight, and its outcome is lost.
    whole.queue.lock().take_off(id, &[0]);
    let cancelled = whole.cancel(id);
    others().await;
    assert!(!cancelled.is_finished(), "that it is not to be sent again is not on disk");
    whole.spool.step();
    let Cancelled { recipients, in_flight, .. } = cancelled.await.unwrap().unwrap();
    assert_eq!((recipients, in_flight), (1, 1));
    whole.files.cut();
    whole.spool.close();
    whole.files.restart();
    let after = Whole::start(whole.files.clone());
    assert_eq!(after.queue.open_recipients(), 1);
    after.queue.start();
    others().await;
    after.spool.step();
    others().await;
    assert_eq!(after.queue.open_recipients(), 0);
    let told = after.told.lock().unwrap().clone();
    let cancelled = told.lines().filter(|line| line.contains("\"cancelled\""));
    assert!(cancelled.count() == 2 && told.contains("r0@b") && told.contains("r1@b"), "{told}");
    assert!(after.queue.status(id).await.unwrap().is_some_and(|status| !status.waiting));
    after.log.close();
}

#[tokio::test]
async fn what_is_held_and_taken_back_leaves_the_line_at_once() {
    let whole = Whole::start(SimFiles::new(1));
    let all = NewOrder {
        deed: crate::shaping::orders::Deed::Pause,
        scope: crate::config::Scope::default(),
        reason: String::new(),
        by: String::new(),
        lasts: None,
    };
    whole.queue.order(all).await.unwrap();
    let ids: Vec<MessageId> = (0..1100).map(|n| whole.accept_held(n)).collect();
    whole.spool.step();
    others().await;
    assert_eq!(whole.queue.census().ready, 1100);
    let queue = Arc::clone(&whole.queue);
    let cancelled = tokio::spawn(async move { queue.cancel(ids).await });
    others().await;
    assert_eq!(whole.queue.census().ready, 0, "nobody comes to look at it there");
    while !cancelled.is_finished() {
        whole.spool.step();
        others().await;
    }
    assert_eq!(cancelled.await.unwrap().unwrap().recipients, 1100);
}

#[tokio::test]
async fn a_thousand_orders_are_recalled_at_once() {
    let whole = Whole::start(SimFiles::new(1));
    let dir = tempfile::tempdir().unwrap();
    let ledger = |dir: &Path| {
        let files = Arc::new(crate::log::DiskFiles);
        let config = crate::config::LedgerConfig::default();
        Arc::new(Ledger::open(dir, &config, files, Arc::new(Metrics::new()), Clock).unwrap())
    };
    let ledger = ledger(dir.path());
    let order = |n: u64| {
        let text = format!(r#"{{"id":{n},"deed":"pace","per_second":5.0,"scope":{{"campaign":"c{n}"}},"since":0}}"#);
        (n.to_be_bytes().to_vec(), Some(text.into_bytes().into()))
    };
    ledger.put(crate::ledger::Table::Orders, (1..=1000).map(order).collect()).await.unwrap();
    let rebuilt = || whole.queue.lock().shaper.limits.work.rebuilt;
    let before = rebuilt();
    whole.queue.recall(&ledger).unwrap();
    assert_eq!((whole.queue.orders().len(), rebuilt() - before), (1000, 1));
    ledger.close();
}

/// The list is asked when a message is accepted: who is on it comes to his end at once, however long the others wait, and
/// is not among those who wait.
#[tokio::test]
async fn who_is_suppressed_ends_when_the_message_is_accepted() {
    let list = Arc::new(Suppressions::default());
    let entry = |address: &str| crate::suppression::Entry {
        subject: address.parse().unwrap(),
        scope: crate::suppression::Scope::Global,
        reason: crate::suppression::Reason::Complaint,
        evidence: "".into(),
        source: "a test".into(),
        since: Clock.timestamp(),
        until: None,
    };
    list.add(vec![entry("r1@b.example"), entry("@gone.example")]).await.unwrap();
    let whole = Whole::with(SimFiles::new(1), Config::default(), list);
    let accept = async |recipients: &[&str]| {
        let now = Clock.timestamp();
        let mut envelope = Envelope::unreadable(Stream::default(), now);
        envelope.recipients = recipients.iter().map(|to| Recipient::new(to.parse().unwrap())).collect();
        envelope.not_before = now.after(Duration::from_secs(3600));
        envelope.expires_at = now.after(Duration::from_secs(7200));
        let id = whole.spool.next_id(now);
        let message = Arc::new(Message::new(id, envelope, bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n")));
        let accepted = tokio::spawn(whole.queue.accept(smallvec::smallvec![message]));
        for _ in 0..3 {
            others().await;
            whole.spool.step();
        }
        accepted.await.unwrap().unwrap();
        id
    };
    let first = accept(&["r0@b.example", "R1@b.example", "r2@b.example"]).await;
    let second = accept(&["x@gone.example", "y@gone.example"]).await;
    let ended = |id: MessageId| -> Vec<String> {
        let told = whole.told.lock().unwrap().clone();
        let lines = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of = lines.filter(|line| line["message_id"] == id.to_string() && line["event"] == "suppressed");
        of.map(|line| line["recipient"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ended(first), ["R1@b.example"]);
    assert_eq!(ended(second), ["x@gone.example", "y@gone.example"]);
    assert_eq!(whole.queue.open_recipients(), 2);
    whole.log.close();
}

//! A log that is written, set aside, damaged and opened again while messages are looked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::file::IndexFile;
use super::*;
use crate::clock::Timestamp;
use crate::config::{ByteSize, EventsConfig};
use crate::events::{Archive, EventLog, Kind, Notice, NoticeKind};
use crate::log::SegmentId;
use crate::mail::{Class, Envelope, MessageId, Stream};
use crate::telemetry::Metrics;

/// A log, and what ought to be found in it.
struct World {
    dir: tempfile::TempDir,
    log: EventLog,
    rotate: u64,
    keep: usize,
    /// Records written.
    records: u32,
    told: BTreeMap<u64, Vec<String>>,
}

impl World {
    fn new(rotate: u64, keep: usize) -> World {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), rotate, keep);
        World { dir, log, rotate, keep, records: 0, told: BTreeMap::new() }
    }

    fn events(&self) -> std::path::PathBuf {
        self.dir.path().join("events.jsonl")
    }

    /// One record: an attempt of each of these messages, to a recipient that is numbered.
    async fn write(&mut self, messages: &[u64]) {
        let mut lines = Vec::new();
        for id in messages {
            let of = self.told.entry(*id).or_default();
            let recipient = format!("{}@{id}.example", of.len());
            let envelope = Envelope::unreadable(Stream::default(), Timestamp(*id));
            let message = MessageId(*id);
            crate::events::Event::new(Timestamp(9), Kind::Delivered, message, &envelope, &recipient)
                .write_line(&mut lines);
            of.push(recipient);
        }
        if messages.is_empty() {
            lines = Notice::new(Timestamp(9), NoticeKind::Pace, "slower \"message_id\":\"", Default::default()).line();
        }
        self.records += 1;
        self.log.write(Position { segment: SegmentId(1), offset: self.records }, lines.into());
        self.log.progress().caught_up().await;
    }

    /// Writes so many messages of one line, ids mixed up.
    async fn fill(&mut self, first: u64, count: u64) {
        let ids: Vec<u64> = (0..count).map(|n| first + (n * 7919) % count).collect();
        for some in ids.chunks(64) {
            self.write(some).await;
        }
    }

    /// Closes the log, lets `crash` happen to the files, opens it again.
    fn restart(&mut self, crash: impl FnOnce(&World)) {
        self.log.close();
        crash(self);
        self.log = open(self.dir.path(), self.rotate, self.keep);
    }

    /// Every message is found, with all its lines in order, by the log's own archive and by a stranger's.
    async fn check(&self) {
        let stranger = Archive::new(self.dir.path(), self.keep);
        for archive in [&self.log.archive(), &stranger] {
            for (id, recipients) in self.told.iter().step_by(self.told.len() / 50 + 1) {
                let found = archive.find(MessageId(*id)).await.unwrap();
                let found: Vec<String> = found.into_iter().map(|told| told.recipient).collect();
                assert_eq!(found, *recipients, "message {id}");
            }
            assert_eq!(archive.find(MessageId(u64::MAX - 1)).await.unwrap(), []);
        }
    }

    /// Waits until all octets of all files are covered by indexes alone.
    async fn indexed(&self) {
        until(|| self.unindexed() == 0, || format!("{} octets are in no index", self.unindexed())).await;
    }

    fn unindexed(&self) -> u64 {
        let reads = Reads::default();
        let gaps_in = |path: std::path::PathBuf| {
            let Ok(file) = File::open(path) else { return 0 };
            let first = first_position(&reads, &file).unwrap();
            let runs = first.and_then(|first| File::open(path_of(self.dir.path(), first)).ok());
            let runs = runs.map_or(Vec::new(), |index| runs_of(&index));
            let gaps = gaps(runs.iter().map(|run| run.stretch()), file.metadata().unwrap().len());
            gaps.iter().map(|gap| gap.end - gap.start).sum()
        };
        self.files().into_iter().map(gaps_in).sum()
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let set_aside = (1..=self.keep).map(|age| self.dir.path().join(format!("events.jsonl.{age}")));
        set_aside.chain([self.events()]).filter(|path| path.exists()).collect()
    }

    fn indexes(&self) -> Vec<std::path::PathBuf> {
        let mut paths: Vec<_> =
            fs::read_dir(self.dir.path().join("index")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort_unstable();
        paths
    }
}

fn open(dir: &Path, rotate: u64, keep: usize) -> EventLog {
    let config = EventsConfig { rotate_size: ByteSize(rotate), keep };
    EventLog::open(dir, &config, Arc::new(Metrics::new())).unwrap().0
}

fn runs_of(index: &File) -> Vec<run::Run> {
    runs(&Reads::default(), index).unwrap()
}

/// Waits for what the background does.
async fn until(done: impl Fn() -> bool, instead: impl FnOnce() -> String) {
    for _ in 0..30_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{}", instead());
}

#[tokio::test]
async fn finds_lines_in_memory_in_runs_and_in_files_set_aside() {
    let mut world = World::new(1 << 20, 8);
    world.fill(1 << 30, 12_000).await;
    // Many lines of one, in every file; a record of it alone, and some lines that are nobody's.
    for _ in 0..20 {
        world.write(&[5, 6, 5]).await;
        world.write(&[]).await;
        world.fill(1 << 29, 300).await;
    }
    assert!(world.files().len() > 3, "{:?}", world.files());
    world.check().await;
    world.log.close();
    world.indexed().await;
    world.check().await;
}

#[tokio::test]
async fn each_file_set_aside_has_one_run_and_takes_few_reads() {
    let mut world = World::new(4 << 20, 8);
    world.fill(1 << 30, 40_000).await;
    let files = world.files().len();
    assert!(files > 2);
    let set_aside = || world.indexes().iter().filter(|path| runs_of(&File::open(path).unwrap()).len() == 1).count();
    for _ in 0..30_000 {
        if set_aside() >= files - 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let archive = world.log.archive();
    for id in [0, 1 << 30, (1 << 30) + 20_000, (1 << 30) + 39_999, u64::MAX >> 1] {
        let mut located = archive.locate(MessageId(id)).unwrap();
        let mut lines = 0;
        let all = located.visit(crate::events::archive::Order::NewestFirst, false, &mut |_| {
            lines += 1;
            std::ops::ControlFlow::Continue(())
        });
        assert!(all.unwrap());
        assert_eq!((located.unindexed(), lines), (0, world.told.get(&id).map_or(0, Vec::len)));
        // First line, head of the run, and half of the entries away with each read but the last.
        let per_run = 3 + 16u64.ilog2() as u64 + 4;
        assert!(located.reads() <= files as u64 * (per_run + 4), "{} reads for {files} files", located.reads());
    }
}

#[tokio::test]
async fn indexes_go_with_their_files() {
    let mut world = World::new(20_000, 2);
    for n in 0..100 {
        world.fill(n << 20, 64).await;
    }
    world.log.close();
    assert_eq!((world.files().len(), world.indexes().len()), (3, 3));
    let stray = world.dir.path().join("index");
    for name in ["7-7.idx", "1-1.new", "notes.txt"] {
        fs::write(stray.join(name), "x").unwrap();
    }
    world.restart(|_| {});
    // Those of three files, and what is not ours; while runs become one there is a `.new` again.
    let names = || -> Vec<String> {
        let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        world.indexes().iter().map(name).collect()
    };
    until(|| names().len() == 4, || format!("{:?}", names())).await;
    assert!(names().iter().all(|name| name != "7-7.idx" && name != "1-1.new"), "{:?}", names());
    world.told.retain(|id, _| *id >= 99 << 20);
    world.check().await;
}

#[tokio::test]
async fn what_a_crash_leaves_is_mended_at_the_start() {
    let mut world = World::new(64 << 20, 2);
    world.fill(1 << 30, 20_000).await;
    let index = |world: &World| world.indexes().remove(0);
    type Crash = fn(&Path);
    let crashes: [(&str, Crash); 6] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("torn", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 100).unwrap();
        }),
        ("zeroed in the middle", |path| {
            File::options().write(true).open(path).unwrap().write_all_at(&[0; 8192], 70_000).unwrap();
        }),
        ("entries of a run", |path| {
            File::options().write(true).open(path).unwrap().write_all_at(&[1; 100], 500).unwrap();
        }),
        ("another version", |path| {
            File::options().write(true).open(path).unwrap().write_all_at(b"PHEVIDX9", 0).unwrap();
        }),
    ];
    for (what, crash) in crashes {
        world.restart(|world| crash(&index(world)));
        world.check().await;
        world.indexed().await;
        world.check().await;
        assert!(!runs_of(&File::open(index(&world)).unwrap()).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn an_index_ahead_of_its_file_is_cut_back() {
    let mut world = World::new(64 << 20, 2);
    world.fill(1 << 30, 10_000).await;
    world.log.close();
    // The power fails: the last half of the events was not synced, the index was. Other events follow.
    let text = fs::read(world.events()).unwrap();
    let half = memchr::memrchr(b'\n', &text[..text.len() / 2]).unwrap() + 1;
    let kept = text[..half].split(|b| *b == b'\n');
    let kept: Vec<u64> = kept.filter_map(scan::named_in).map(|id| id.0).collect();
    world.restart(|world| File::options().write(true).open(world.events()).unwrap().set_len(half as u64).unwrap());
    // Less than the half if it ended within a record.
    let lines = fs::read_to_string(world.events()).unwrap().lines().count();
    let gone = kept[lines..].to_vec();
    world.told.retain(|id, _| kept.contains(id) && !gone.contains(id));
    world.check().await;
    world.fill(1 << 29, 10_000).await;
    world.check().await;
    world.log.close();
    world.indexed().await;
    world.check().await;
}

#[tokio::test]
async fn an_index_that_leads_astray_is_not_believed() {
    let mut world = World::new(64 << 20, 2);
    world.fill(1 << 30, 10_000).await;
    world.log.close();
    // Whole and of the right file, and yet wrong: entries lead to lines of others.
    let index = IndexFile::create(world.indexes().remove(0)).unwrap();
    let entries: Vec<Entry> = (0..10_000).map(|n| Entry { message: (1 << 30) + n, offset: 0 }).collect();
    index.append(0..fs::metadata(world.events()).unwrap().len(), &entries).unwrap();
    let stranger = Archive::new(world.dir.path(), 2);
    let id = *world.told.keys().nth(77).unwrap();
    assert_eq!(stranger.find(MessageId(id)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_origin_is_the_newest_end_of_the_recipient() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20, 2);
    let stream = Stream { tenant: "shop".into(), class: Class::Bulk, campaign: "spring".into() };
    let envelope = Envelope::unreadable(stream, Timestamp(1_700_000_000_123));
    let id = MessageId(1_700_000_000_123 << 22);
    let mut lines = Vec::new();
    let ends = [("a@x.test", Kind::Deferred), ("a@x.test", Kind::Delivered), ("b@x.test", Kind::Deferred)];
    for (nth, (recipient, kind)) in ends.into_iter().enumerate() {
        let time = Timestamp(1_700_000_001_000 + nth as u64);
        let mut event = crate::events::Event::new(time, kind, id, &envelope, recipient);
        (event.site, event.provider, event.source) = ("mx.x.test", "other", "mta1");
        event.sender = "b+1@us.test";
        event.write_line(&mut lines);
    }
    // What a report adds later is no end.
    lines.extend_from_slice(
        format!("{{\"event\":\"complaint\",\"message_id\":\"{id}\",\"recipient\":\"a@x.test\"}}\n").as_bytes(),
    );
    log.write(Position { segment: SegmentId(1), offset: 0 }, Bytes::from(lines));
    log.progress().caught_up().await;
    let archive = log.archive();
    let origin = archive.origin(id, |recipient| recipient == "a@x.test").await.unwrap().unwrap();
    assert_eq!(
        (origin.end, origin.ended_at, origin.accepted_at),
        (Kind::Delivered, Timestamp(1_700_000_001_001), Timestamp(1_700_000_000_123))
    );
    assert_eq!((&*origin.tenant, origin.class, &*origin.campaign), ("shop", Class::Bulk, "spring"));
    assert_eq!((&*origin.source, &*origin.provider, &*origin.site), ("mta1", "other", "mx.x.test"));
    assert_eq!((&*origin.recipient, &*origin.sender, origin.list), ("a@x.test", "b+1@us.test", None));
    for who in ["b@x.test", "c@x.test"] {
        assert_eq!(archive.origin(id, move |recipient| recipient == who).await.unwrap(), None);
    }
    assert_eq!(archive.origin(MessageId(id.0 + 1), |_| true).await.unwrap(), None);
}

#[test]
fn what_is_no_index_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let index = IndexFile::create(dir.path().join("1-1.idx")).unwrap();
    let entries: Vec<Entry> = (0..600).map(|n| Entry { message: n / 2, offset: n * 100 }).collect();
    index.append(0..30_000, &entries[..300]).unwrap();
    index.append(30_000..60_000, &entries[300..]).unwrap();
    let whole = fs::read(&index.path).unwrap();
    let mut chance = SmallRng::seed_from_u64(1);
    for _ in 0..500 {
        let mut octets = whole.clone();
        for _ in 0..chance.random_range(1..9) {
            let place = chance.random_range(0..octets.len());
            octets[place] = chance.random();
        }
        octets.truncate(chance.random_range(0..=octets.len()));
        fs::write(&index.path, &octets).unwrap();
        let (file, reads) = (File::open(&index.path).unwrap(), Reads::default());
        for run in runs_of(&file) {
            let mut lines = Vec::new();
            run.find(&reads, &file, chance.random_range(0..400), &mut lines).unwrap();
            let sound = run.is_sound(&reads, &file).unwrap();
            let at = run.at as usize;
            let same = octets.get(at..at + 4800) == whole.get(at..at + 4800);
            assert_eq!(sound, same, "run of {:?}", run.stretch());
        }
        assert!(runs_of(&IndexFile::open(index.path.clone(), 60_000).unwrap().runs().unwrap().1).len() <= 2);
    }
}

#[test]
fn gaps_between_stretches() {
    let ranges = |pairs: &[(u64, u64)]| -> Vec<Range<u64>> { pairs.iter().map(|(from, to)| *from..*to).collect() };
    let none: &[(u64, u64)] = &[];
    for (stretches, len, expected) in [
        (none, 10, &[(0, 10)][..]),
        (&[], 0, &[]),
        (&[(5, 8), (0, 3)], 10, &[(3, 5), (8, 10)]),
        (&[(0, 8), (2, 4)], 8, &[]),
        (&[(4, 20)], 10, &[(0, 4)]),
        (&[(12, 20)], 10, &[(0, 10)]),
    ] {
        assert_eq!(gaps(ranges(stretches), len), ranges(expected), "{stretches:?} of {len}");
    }
}

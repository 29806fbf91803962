//! The run: messages with and without keys that are accepted, attempted, signed, taken back and finished, facts that are
//! set and removed, segments that are used again.

use std::sync::mpsc::sync_channel;

use tokio::sync::oneshot;

use super::*;

/// Steps of the run.
const STEPS: usize = 80;

/// Says what was asked for once it is synced.
type Waiting = (oneshot::Receiver<()>, Box<dyn FnOnce(&mut Promises)>);

pub(super) struct Run {
    spool: Arc<Spool>,
    ledger: Arc<Ledger>,
    promises: Arc<Mutex<Promises>>,
    /// Told when the log has come that far.
    exported: Arc<Mutex<Option<Position>>>,
    waiting: Vec<Waiting>,
    dice: SmallRng,
    /// Of the log of facts.
    facts_began_at: Option<SegmentId>,
    /// A segment of the spool was used again; the facts were compacted.
    copied: bool,
    cut: bool,
}

/// Sets and removes.
pub(super) fn apply(to: &mut BTreeMap<Vec<u8>, Bytes>, facts: &[(Vec<u8>, Option<Bytes>)]) {
    for (key, value) in facts {
        match value {
            Some(value) => drop(to.insert(key.clone(), value.clone())),
            None => drop(to.remove(key)),
        }
    }
}

impl Run {
    pub(super) fn begin(files: &SimFiles, index: &MemoryIndexes, promises: Arc<Mutex<Promises>>) -> Run {
        let ledger = Arc::new(Ledger::open_small_with(files, index.clone()));
        let (told, exported) = (Arc::clone(&promises), Arc::<Mutex<Option<Position>>>::default());
        let end = Arc::clone(&exported);
        // The event log: it has what it is told, and says how far it is synced at times.
        let export = move |position, lines: Bytes| {
            let lines = std::str::from_utf8(&lines).unwrap();
            let mut told = told.lock().unwrap();
            told.ends.extend(lines.lines().filter_map(parse_end));
            told.exported = Some(position);
            *end.lock().unwrap() = Some(position);
        };
        let outlets = Outlets { exported: None, export: Arc::new(export), ledger: Arc::clone(&ledger) };
        let (spool, mut opened) = open_spool(files, outlets);
        spool.restore(&mut opened, &mut |_| panic!("it is empty")).unwrap();
        let (dice, facts_began_at) = (SmallRng::seed_from_u64(5), ledger.facts_begin_at());
        let waiting = Vec::new();
        Run { spool, ledger, promises, exported, waiting, dice, facts_began_at, copied: false, cut: false }
    }

    /// From the first deed to the last.
    pub(super) fn whole(mut self) {
        for step in 0..STEPS {
            for _ in 0..self.dice.random_range(1..4) {
                self.deed(step);
            }
            self.sync();
        }
        self.spool.close();
        self.ledger.close();
        assert!(self.copied, "no segment of the spool was used again");
        assert!(self.cut, "the facts were not compacted");
    }

    fn deed(&mut self, step: usize) {
        match self.dice.random_range(0..20) {
            0..7 => self.accept(step),
            7..14 => self.attempt(),
            14 => self.take_back(),
            15..18 => self.put(),
            _ => self.reclaim(),
        }
    }

    /// What was queued is written, and whoever waits is told.
    fn sync(&mut self) {
        self.spool.step();
        let mut promises = self.promises.lock().unwrap();
        for (mut synced, promise) in std::mem::take(&mut self.waiting) {
            match synced.try_recv() {
                Ok(()) => promise(&mut promises),
                Err(_) => self.waiting.push((synced, promise)),
            }
        }
    }

    fn accept(&mut self, step: usize) {
        let now = Clock.timestamp();
        let id = self.spool.next_id(now);
        let recipients = if self.dice.random_range(0..3) == 0 { self.dice.random_range(2..6) } else { 1 };
        let key = self.dice.random::<bool>().then(|| format!("{step}-{id}"));
        let mut envelope = Envelope { accepted_at: now, ..envelope(recipients) };
        let receipt = Receipt { id, messages: 1, accepted_at: now, replayed: false };
        if let Some(key) = &key {
            let keyed = Keyed::new(key.parse().unwrap(), Fingerprint([7; 16]), 1);
            let Begun::New(ticket) = self.ledger.begin("", &keyed) else { panic!("{key} is not new") };
            envelope.key = Some(Box::new(keyed));
            ticket.hand_over();
        }
        let new = Message { recipients: vec![[0, 0]; recipients as usize], ..Message::default() };
        self.promises.lock().unwrap().messages.insert(id, new);
        let promises = Arc::clone(&self.promises);
        let message = Arc::new(crate::spool::Message::new(id, envelope, content(id)));
        self.spool.accept([message], move |result| {
            result.unwrap();
            let mut promises = promises.lock().unwrap();
            promises.messages.get_mut(&id).unwrap().accepted = true;
            promises.keys.extend(key.clone().map(|key| (key, receipt)));
        });
    }

    /// One of those that are accepted and have not ended.
    fn pick(&mut self) -> Option<MessageId> {
        let promises = self.promises.lock().unwrap();
        let open = promises.messages.iter().filter(|(_, message)| message.accepted && !message.finished[1]);
        let open: Vec<MessageId> = open.map(|(id, _)| *id).collect();
        (!open.is_empty()).then(|| open[self.dice.random_range(0..open.len())])
    }

    fn attempt(&mut self) {
        let Some(id) = self.pick() else { return };
        let (mut changes, mut events) = (Vec::new(), String::new());
        let mut promises = self.promises.lock().unwrap();
        let message = promises.messages.get_mut(&id).unwrap();
        for (recipient, [_, asked]) in (0..).zip(&mut message.recipients).filter(|(_, [_, asked])| *asked < ENDED) {
            let state = if self.dice.random_range(0..100) < 60 {
                *asked = ENDED;
                events += &format!("{id} {recipient}\n");
                RecipientState::Ended(End::Delivered)
            } else {
                *asked += 1;
                let attempts = (*asked).into();
                RecipientState::Waiting { attempts, next_attempt: Timestamp(9), failure: failure(), late: false }
            };
            changes.push(Change { recipient, state });
        }
        let finished = message.recipients.iter().all(|[_, asked]| *asked == ENDED);
        message.finished[1] = finished;
        let signature = (!finished && self.dice.random()).then(|| Bytes::from_static(b"signed"));
        message.signed[1] |= signature.is_some();
        let (asked, signed) = (message.recipients.clone(), message.signed[1]);
        drop(promises);
        let (sender, synced) = oneshot::channel();
        let (events, reports) = (events.into(), Vec::new());
        let update = Update { id, changes, finished, events, signature, reports, synced: Some(sender) };
        self.spool.record(update, |_| {});
        let acknowledge = move |promises: &mut Promises| {
            let message = promises.messages.get_mut(&id).unwrap();
            for ([acknowledged, _], [_, asked]) in message.recipients.iter_mut().zip(asked) {
                *acknowledged = asked;
            }
            message.signed[0] = signed;
            message.finished[0] = finished;
        };
        self.waiting.push((synced, Box::new(acknowledge)));
    }

    fn take_back(&mut self) {
        let Some(id) = self.pick() else { return };
        self.promises.lock().unwrap().messages.get_mut(&id).unwrap().taken_back[1] = true;
        let (sender, synced) = oneshot::channel();
        self.spool.take_back(id, sender);
        let acknowledge = move |promises: &mut Promises| {
            promises.messages.get_mut(&id).unwrap().taken_back[0] = true;
        };
        self.waiting.push((synced, Box::new(acknowledge)));
    }

    /// A few facts at once, long enough to fill segments.
    fn put(&mut self) {
        let dice = &mut self.dice;
        let one = |dice: &mut SmallRng| {
            let set = dice.random_range(0..3) > 0;
            let value = set.then(|| Bytes::from(format!("{:02500}", dice.random::<u32>())));
            (format!("k{}", dice.random_range(0..12)).into_bytes(), value)
        };
        let facts: Vec<_> = (0..dice.random_range(1..4)).map(|_| one(dice)).collect();
        self.promises.lock().unwrap().facts_asked = facts.clone();
        let (sender, answer) = sync_channel(1);
        let (promises, put) = (Arc::clone(&self.promises), facts.clone());
        self.ledger.put_then(Table::Tenants, facts, move |result| {
            let mut promises = promises.lock().unwrap();
            promises.facts_asked.clear();
            apply(&mut promises.facts, &put);
            sender.send(result.is_ok()).unwrap();
        });
        assert!(answer.recv().unwrap());
        self.cut |= self.ledger.facts_begin_at() > self.facts_began_at;
    }

    fn reclaim(&mut self) {
        let exported = *self.exported.lock().unwrap();
        exported.into_iter().for_each(|position| self.spool.set_exported(position.segment));
        self.copied |= self.spool.reclaim().unwrap();
    }
}

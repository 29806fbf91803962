//! How the owner gives disk space back: deletions written again, stragglers copied forward.

use super::*;

impl Owner {
    /// Frees a dead segment from the older ones that hold it: its deletions are written again.
    pub(super) fn carry_deletions(&mut self, files: &SimFiles) {
        let Some(segment) = self.log.pinned() else { return };
        let mut needed = Vec::new();
        let scanned = self.log.scan(segment, &mut |r| {
            if r.kind == DELETE {
                let number = |at: usize| SegmentId(u32::from_le_bytes(r.head[at..at + 4].try_into().unwrap()));
                if self.log.holds_any(number(0)..=number(4), segment) {
                    needed.push((r.id, r.head.to_vec()));
                }
            }
        });
        if scanned.is_err() {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        let count = needed.len();
        self.log.append(needed.into_iter().map(|(id, head)| {
            let sender = sender.clone();
            let done: Done = Box::new(move |result| sender.send(result).unwrap_or(()));
            Append { kind: DELETE, id, head, body: smallvec![], durability: Durability::Relaxed, done: Some(done) }
        }));
        let mut into = Vec::new();
        while into.len() < count {
            match receiver.recv_timeout(Duration::from_millis(1)) {
                Ok(Ok(at)) => into.push(at.position.segment),
                Ok(Err(_)) => return,
                Err(_) if files.is_powered() => continue,
                Err(_) => return,
            }
        }
        self.log.vacate(segment, &into);
        self.carried += 1;
        self.log.reclaim();
    }

    /// Copies what is live in the emptiest segment forward.
    pub(super) fn copy_stragglers(&mut self, files: &SimFiles, promises: &mut Promises) {
        let Some(segment) = self.log.sparse(0.7) else { return };
        let mut stragglers: Vec<(u64, Live)> = self.live.iter().map(|(id, live)| (*id, *live)).collect();
        stragglers.sort_unstable_by_key(|(id, _)| *id);
        for (id, live) in stragglers {
            let stands_there = |at: Location| at.position.segment == segment;
            if stands_there(live.put) {
                // Replay meets the copy after the states written before it, so it brings its state along.
                let Ok(record) = self.log.read_blocking(live.put) else { break };
                let copy = self.copy(id, record, segment);
                let state = live.state_at.is_some().then(|| self.state_record(id, live.state));
                self.queued += 1 + usize::from(state.is_some());
                self.log.append([copy].into_iter().chain(state));
            } else if live.state_at.is_some_and(stands_there) {
                self.state(id, live.state);
            }
        }
        self.settle(files, promises);
    }

    fn copy(&self, id: u64, record: Record, from: SegmentId) -> Append {
        let sender = self.sender.clone();
        let log = Arc::downgrade(&self.log);
        Append {
            kind: PUT,
            id,
            head: record.head.to_vec(),
            body: smallvec![record.body],
            durability: Durability::Synced,
            done: Some(Box::new(move |result| {
                let event = match result {
                    Ok(at) => {
                        if let Some(log) = log.upgrade() {
                            log.retain(at);
                            log.depend(at.position.segment, from);
                        }
                        Event::Copied(id, at)
                    }
                    Err(error) => Event::Failed(error),
                };
                let _ = sender.send(event);
            })),
        }
    }
}

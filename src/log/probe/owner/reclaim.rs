//! How the owner gives disk space back: deletions written again, stragglers copied forward.

use super::*;

impl Owner {
    /// Frees a dead segment from the older ones that hold it: its deletions are written again.
    pub fn carry_deletions(&mut self, files: &SimFiles) {
        let Some(segment) = self.log.pinned() else { return };
        let mut needed = Vec::new();
        let scanned = self.log.scan(segment, &mut |r| {
            if r.kind == DELETE {
                let number = |at: usize| u32::from_le_bytes(r.head[at..at + 4].try_into().expect("four octets"));
                if self.log.holds_any(SegmentId(number(0))..=SegmentId(number(4)), segment) {
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
        self.log.step();
        let mut into = Vec::new();
        while into.len() < count {
            match receiver.recv_timeout(Duration::from_millis(if self.stepped { 0 } else { 1 })) {
                Ok(Ok(at)) => into.push(at.position.segment),
                Ok(Err(_)) => return,
                Err(_) if files.is_powered() && !self.stepped => continue,
                Err(_) => return,
            }
        }
        self.log.vacate(segment, &into);
        self.carried += 1;
        self.log.reclaim();
    }

    /// Copies what is live in the emptiest segment forward, if no answer is outstanding.
    pub fn copy_stragglers(&mut self, files: &SimFiles, promises: &mut Promises) {
        let Some(segment) = self.log.sparse(0.7).filter(|_| self.queued == 0) else { return };
        for id in self.ids() {
            let live = self.live[&id];
            let stands_there = |at: Location| at.position.segment == segment;
            if stands_there(live.put) {
                // Replay meets the copy after the states written before it, so it brings its state along.
                let Ok(record) = self.log.read_blocking(live.put) else { break };
                let (head, body) = (record.head.to_vec(), smallvec![record.body]);
                let copy = Planned { id, deed: Deed::Copy(segment), head, body, durability: Durability::Synced };
                let state = live.state_at.map(|_| self.planned_state(id, live.state));
                self.queue([copy].into_iter().chain(state).collect());
            } else if live.state_at.is_some_and(stands_there) {
                let state = self.planned_state(id, live.state);
                self.queue(vec![state]);
            }
        }
        self.settle(files, promises);
    }
}

//! What is there, beside what was promised.

use super::*;

impl Owner {
    /// Compares with what was promised. Messages that are there without a promise are kept from now on.
    pub fn check(&self, promises: &mut Promises, context: &str) {
        for (id, promise) in promises.iter() {
            match (promise, self.live.get(id)) {
                (Promise::Kept { state }, Some(live)) => {
                    assert!(
                        live.state >= *state,
                        "{context}: message {id} fell back from state {state} to {}",
                        live.state
                    );
                }
                (Promise::Kept { .. }, None) => panic!("{context}: acknowledged message {id} is lost"),
                (Promise::Deleted, Some(live)) => panic!("{context}: message {id} came back: {live:?}"),
                (Promise::Deleted, None) | (Promise::Open, _) => {}
            }
        }
        self.check_bodies(context);
        promises.retain(|_, promise| *promise == Promise::Deleted);
        promises.extend(self.live.iter().map(|(id, live)| (*id, Promise::Kept { state: live.state })));
    }

    /// Reads everything that is live, as long as there is power: the log's own threads go on meanwhile, and may meet the cut.
    pub fn check_bodies(&self, context: &str) {
        for (id, live) in &self.live {
            let record = match self.log.read_blocking(live.put) {
                Err(_) if !self.files.is_powered() => return,
                read => read.unwrap_or_else(|e| panic!("{context}: message {id}: {e}")),
            };
            assert_eq!((record.kind, record.id), (PUT, *id), "{context}");
            assert!(record.body == body(*id), "{context}: message {id} holds something else");
        }
    }

    /// The messages there are, in order.
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.live.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Octets of what it holds on to.
    pub fn live_bytes(&self) -> u64 {
        let held = |live: &Live| live.put.record_len() + live.state_at.map_or(0, |at| at.record_len());
        self.live.values().map(held).sum()
    }
}

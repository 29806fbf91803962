//! The streams that have mail waiting, each stored once.

use std::collections::HashMap;
use std::sync::Arc;

use super::StreamId;
use crate::mail::{Class, Stream};
use crate::routing::PoolId;

/// The table. A stream is forgotten when its last message is: campaigns come and go for as long as the daemon runs.
#[derive(Debug, Default)]
pub(super) struct Streams {
    ids: HashMap<Stream, StreamId>,
    streams: slab::Slab<StreamState>,
    /// Open recipients by tenant.
    open: HashMap<Arc<str>, i64>,
}

#[derive(Debug)]
struct StreamState {
    stream: Stream,
    messages: usize,
    pool: PoolId,
}

impl Streams {
    /// The stream's place, for one more message; `pool` says which pool sends a new one.
    pub(super) fn take(&mut self, stream: &Stream, pool: impl FnOnce(&Stream) -> PoolId) -> StreamId {
        let id = match self.ids.get(stream) {
            Some(id) => *id,
            None => {
                let state = StreamState { stream: stream.clone(), messages: 0, pool: pool(stream) };
                let id = self.streams.insert(state) as StreamId;
                self.ids.insert(stream.clone(), id);
                id
            }
        };
        self.streams[id as usize].messages += 1;
        id
    }

    /// The pool that sends a stream.
    pub(super) fn pool(&self, id: StreamId) -> PoolId {
        self.streams[id as usize].pool
    }

    /// Asks anew which pool sends which stream.
    pub(super) fn set_pools(&mut self, pool: impl Fn(&Stream) -> PoolId) {
        self.streams.iter_mut().for_each(|(_, state)| state.pool = pool(&state.stream));
    }

    /// One of its messages is finished.
    pub(super) fn release(&mut self, id: StreamId) {
        let state = &mut self.streams[id as usize];
        state.messages -= 1;
        if state.messages == 0 {
            let state = self.streams.remove(id as usize);
            self.ids.remove(&state.stream);
        }
    }

    /// So many recipients more are open (fewer, if negative). Counted for named tenants only.
    pub(super) fn count(&mut self, id: StreamId, recipients: i64) {
        let tenant = &self.streams[id as usize].stream.tenant;
        if tenant.is_empty() {
            return;
        }
        match self.open.get_mut(tenant) {
            Some(open) => *open += recipients,
            None => _ = self.open.insert(Arc::clone(tenant), recipients),
        }
        if self.open.get(tenant) == Some(&0) {
            self.open.remove(tenant);
        }
    }

    /// Open recipients of a tenant.
    pub(super) fn open_of(&self, tenant: &str) -> u64 {
        self.open.get(tenant).map_or(0, |open| (*open).max(0) as u64)
    }

    /// The streams of a campaign, one for each class at most.
    pub(super) fn of_campaign(&self, tenant: &Arc<str>, campaign: &Arc<str>) -> Vec<StreamId> {
        let stream = |class| Stream { tenant: Arc::clone(tenant), class, campaign: Arc::clone(campaign) };
        Class::ALL.into_iter().filter_map(|class| self.ids.get(&stream(class)).copied()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn get(&self, id: StreamId) -> &Stream {
        &self.streams[id as usize].stream
    }

    pub(super) fn class(&self, id: StreamId) -> Class {
        self.get(id).class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_is_found_in_all_its_classes_and_no_other() {
        let mut streams = Streams::default();
        let stream =
            |tenant: &str, class, campaign: &str| Stream { tenant: tenant.into(), class, campaign: campaign.into() };
        let take = |streams: &mut Streams, stream: Stream| streams.take(&stream, |_| PoolId(0));
        let bulk = take(&mut streams, stream("shop", Class::Bulk, "spring"));
        let quick = take(&mut streams, stream("shop", Class::Transactional, "spring"));
        take(&mut streams, stream("shop", Class::Bulk, "autumn"));
        take(&mut streams, stream("club", Class::Bulk, "spring"));
        let (shop, spring) = ("shop".into(), "spring".into());
        assert_eq!(streams.of_campaign(&shop, &spring), [quick, bulk]);
        streams.release(quick);
        assert_eq!(streams.of_campaign(&shop, &spring), [bulk]);
        assert!(streams.of_campaign(&"club".into(), &"autumn".into()).is_empty());
    }
}

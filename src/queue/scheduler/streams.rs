//! The streams that have mail waiting, each stored once.

use std::collections::HashMap;
use std::sync::Arc;

use super::StreamId;
use crate::mail::{Class, Stream};

/// The table. A stream is forgotten when its last message is: campaigns come and go for as long as the daemon runs.
#[derive(Debug, Default)]
pub(super) struct Streams {
    ids: HashMap<Stream, StreamId>,
    streams: slab::Slab<(Stream, usize)>,
    /// Open recipients by tenant.
    open: HashMap<Arc<str>, i64>,
}

impl Streams {
    /// The stream's place, for one more message.
    pub(super) fn take(&mut self, stream: &Stream) -> StreamId {
        let id = match self.ids.get(stream) {
            Some(id) => *id,
            None => {
                let id = self.streams.insert((stream.clone(), 0)) as StreamId;
                self.ids.insert(stream.clone(), id);
                id
            }
        };
        self.streams[id as usize].1 += 1;
        id
    }

    /// One of its messages is finished.
    pub(super) fn release(&mut self, id: StreamId) {
        let (_, messages) = &mut self.streams[id as usize];
        *messages -= 1;
        if *messages == 0 {
            let (stream, _) = self.streams.remove(id as usize);
            self.ids.remove(&stream);
        }
    }

    /// So many recipients more are open (fewer, if negative). Counted for named tenants only.
    pub(super) fn count(&mut self, id: StreamId, recipients: i64) {
        let tenant = &self.streams[id as usize].0.tenant;
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
        &self.streams[id as usize].0
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
        let bulk = streams.take(&stream("shop", Class::Bulk, "spring"));
        let quick = streams.take(&stream("shop", Class::Transactional, "spring"));
        streams.take(&stream("shop", Class::Bulk, "autumn"));
        streams.take(&stream("club", Class::Bulk, "spring"));
        let (shop, spring) = ("shop".into(), "spring".into());
        assert_eq!(streams.of_campaign(&shop, &spring), [quick, bulk]);
        streams.release(quick);
        assert_eq!(streams.of_campaign(&shop, &spring), [bulk]);
        assert!(streams.of_campaign(&"club".into(), &"autumn".into()).is_empty());
    }
}

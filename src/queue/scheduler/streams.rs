//! The streams that have mail waiting, each stored once.

use std::collections::HashMap;

use super::StreamId;
use crate::mail::{Class, Stream};

/// The table. A stream is forgotten when its last message is: campaigns come and go for as long as the daemon runs.
#[derive(Debug, Default)]
pub(super) struct Streams {
    ids: HashMap<Stream, StreamId>,
    streams: slab::Slab<(Stream, usize)>,
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

//! Contents under way: each once in memory, all of them within `delivery.memory_max`.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;

use super::room::{Room, Share};
use crate::mail::{IdMap, MessageId};
use crate::spool::{Message, Spool, SpoolError};

/// The contents that are being sent or settled.
#[derive(Debug)]
pub(super) struct Contents {
    room: Arc<Room>,
    under_way: Mutex<IdMap<Arc<Content>>>,
}

/// One message, read by whoever comes first.
type Content = OnceCell<(Arc<Message>, Share)>;

/// A message with its content and room for it; whoever asks for it meanwhile gets the same one.
#[derive(Debug)]
pub(super) struct Loaded {
    message: Arc<Message>,
    _user: Option<User>,
}

/// One of those who want a content; the last to go forgets it.
#[derive(Debug)]
struct User {
    contents: Arc<Contents>,
    id: MessageId,
    content: Arc<Content>,
}

impl Contents {
    /// At most so many octets at once.
    pub(super) fn new(octets_max: usize) -> Arc<Contents> {
        Arc::new(Contents { room: Room::new(octets_max), under_way: Mutex::default() })
    }

    /// Changes the limit.
    pub(super) fn set_max(&self, octets_max: usize) {
        self.room.set_max(octets_max);
    }

    /// The message, once there is room for it.
    ///
    /// # Errors
    /// As [`Spool::load`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn load(self: &Arc<Contents>, spool: &Spool, id: MessageId) -> Result<Loaded, SpoolError> {
        let user = self.user(id);
        let read = || async {
            let share = self.room.take(spool.content_len(id)?).await;
            Ok::<_, SpoolError>((spool.load(id).await?, share))
        };
        let message = Arc::clone(&user.content.get_or_try_init(read).await?.0);
        Ok(Loaded { message, _user: Some(user) })
    }

    fn user(self: &Arc<Contents>, id: MessageId) -> User {
        let content = Arc::clone(self.lock().entry(id).or_default());
        User { contents: Arc::clone(self), id, content }
    }

    fn lock(&self) -> MutexGuard<'_, IdMap<Arc<Content>>> {
        self.under_way.lock().expect("no code panics under this lock")
    }
}

impl Loaded {
    /// A message whose content is not wanted: it takes no room.
    pub(super) fn envelope(message: Arc<Message>) -> Loaded {
        Loaded { message, _user: None }
    }
}

impl Deref for Loaded {
    type Target = Arc<Message>;

    fn deref(&self) -> &Arc<Message> {
        &self.message
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut under_way = self.contents.lock();
        // The table's and ours: users are counted under this lock only.
        if Arc::strong_count(&self.content) == 2 {
            under_way.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::config::{ByteSize, SpoolConfig};
    use crate::log::probe::MemoryFiles;
    use crate::mail::{Envelope, Stream};
    use crate::spool::Outlets;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_content_under_way_is_in_memory_once() {
        let config = SpoolConfig { cache_size: ByteSize(0), disk_free_min: ByteSize(0), ..SpoolConfig::default() };
        let (files, metrics) = (Arc::new(MemoryFiles::default()), Arc::new(Metrics::new()));
        let outlets = Outlets { exported: None, export: Arc::new(|_, _| {}), ledger: Arc::default() };
        let opened = Spool::open(Path::new("/spool"), &config, files, metrics, outlets, Clock);
        let spool = opened.expect("memory does not fail").0;
        let id = spool.next_id(Timestamp(1));
        let (done, accepted) = std::sync::mpsc::channel();
        let envelope = Envelope::unreadable(Stream::default(), Timestamp(1));
        let message = Arc::new(Message::new(id, envelope, Bytes::from(vec![b'x'; 1000])));
        spool.accept([message], move |result| done.send(result.is_ok()).expect("somebody waits"));
        assert!(accepted.recv().expect("an answer"));

        let contents = Contents::new(1 << 20);
        let (first, second) = tokio::join!(contents.load(&spool, id), contents.load(&spool, id));
        let (first, second) = (first.expect("it is there"), second.expect("it is there"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((contents.room.used(), first.content.len()), (1000, 1000));
        drop(first);
        assert_eq!(contents.room.used(), 1000);
        drop(second);
        assert_eq!((contents.room.used(), contents.lock().len()), (0, 0));

        let unknown = spool.next_id(Timestamp(2));
        assert!(matches!(contents.load(&spool, unknown).await, Err(SpoolError::Unknown(_))));
        assert_eq!((contents.room.used(), contents.lock().len()), (0, 0));
    }
}

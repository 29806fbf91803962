//! What an index over the facts has to do. It is never the only copy, and may fail in any way it likes.

use std::sync::Arc;

use bytes::Bytes;

use crate::ledger::Table;
use crate::ledger::codec::Fact;
use crate::log::Position;

/// The index cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the index of the ledger: {0}")]
pub(in crate::ledger) struct IndexError(pub String);

pub(super) type Result<T> = std::result::Result<T, IndexError>;

/// A fact that counts, and where in the log it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Entry {
    pub at: Position,
    /// `None`: too long for an index; it stands in the log only.
    pub value: Option<Bytes>,
}

/// Longest value that an index holds, in octets. sled is safe below 4 KiB.
pub(in crate::ledger) const INDEXED_MAX: usize = 3 << 10;

/// How far an index has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Applied {
    /// Facts of the log up to here are in it.
    pub through: Position,
    /// How many facts it holds.
    pub facts: u64,
    /// What the log takes for them, about; 0 if it does not know.
    pub octets: u64,
}

/// Facts by table and key. Calls block.
pub(in crate::ledger) trait Index: Send + Sync {
    /// How far it has come; `None` if it is new.
    fn applied(&self) -> Result<Option<Applied>>;

    /// The fact of that key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Entry>>;

    /// All facts of a table whose keys begin with `prefix`, in order.
    fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>>;

    /// The first `limit` facts of a table whose keys begin with `prefix` and are not before `from`, in order.
    fn page(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Entry)>>;

    /// Applies facts in order, then says that it has come to `through`. Durable when it returns, and never in another order: after a
    /// crash what it says of itself is true. One caller at a time.
    fn apply(&self, facts: &[(Position, Fact)], through: Position) -> Result<Applied>;
}

/// Where indexes come from.
pub(in crate::ledger) trait Indexes: Send + Sync {
    /// The one that is there, or a new one.
    fn open(&self) -> Result<Arc<dyn Index>>;

    /// Moves the one that is there out of the way.
    fn set_aside(&self) -> Result<()>;
}

//! The words every stage shares: domains, addresses, envelopes, replies, outcomes.
//!
//! Text from outside becomes one of these types at the door and is not checked again inside. Nothing here does I/O.

mod address;
mod by_id;
mod domain;
mod envelope;
pub mod header;
mod message_id;
mod outcome;
#[doc(hidden)]
pub mod probe;
mod reason;
mod receipt;
mod reply;
pub mod wording;

pub use address::{AddressError, AddressHost, EnvelopeAddress, ReversePath};
#[cfg(test)]
pub(crate) use by_id::size_in_slab;
pub use by_id::{ById, HasId, IdHasher, IdMap, IdSet, OwnMap};
pub use domain::{Domain, DomainError};
pub use envelope::{Class, Envelope, Notify, Recipient, Ret, Stream};
pub use message_id::{MessageId, MessageIdError, MessageIds};
pub use outcome::{Blame, Failure, Origin, Outcome, TlsFacts};
pub use reason::{Fault, Reason};
pub use receipt::{Fingerprint, IdempotencyKey, IdempotencyKeyError, KEY_MAX, Keyed, Receipt};
pub use reply::{EnhancedCode, Reply};

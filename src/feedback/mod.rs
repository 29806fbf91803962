//! Learn: what outcomes mean for the sender.
//!
//! Two ways. Inwards: [`classify`] says what a refusal means, and [`bounce`] reads what comes back as mail; neither is
//! asked by the queue yet. Outwards: when recipients have failed or expired, or were handed to where reports end, or, for
//! who asked to hear that, still wait when [`delay_report_due`] says so, [`delivery_report`]
//! makes the message that says so (RFC 3464), and the queue sends it like any other. Pure: no clock, no network, no disk. The steps:
//!
//! 1. Nobody is told of a failed report (a null reverse path), nor of what a recipient's NOTIFY excludes, nor without asking
//!    where `[[reports.stream]]` leaves it to events.
//! 2. Words for people: which recipient, why, what the receiver said, what can be done (`words.rs`).
//! 3. The same for machines, as `message/delivery-status` (`status.rs`).
//! 4. The headers of the message, or all of it when RET asks for that and it is small.
//!
//! Everything in a report but its frame was written by others: addresses, replies, the message itself. Nothing of it
//! reaches a field of ours before control characters and octets above 127 are gone (`field.rs`).

pub mod bounce;
pub mod classify;
pub mod complaint;
mod delay;
mod field;
pub mod marks;
mod mime;
#[doc(hidden)]
pub mod probe;
mod report;
pub mod reports;
mod status;
mod suppressed;
pub mod token;
pub mod verp;
mod words;

pub use delay::delay_report_due;
pub use report::{Fate, ReportedRecipient, Reporter, delivery_report};
pub use suppressed::{suppressed_line, suppression_line};

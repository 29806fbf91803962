//! The way in for a fuzz target: octets of protobuf, to a request of ours.

use prost::Message;

use super::events;
use super::reading::Frames;
use super::suppressions::text;
use super::{line, translate, v1};
use crate::clock::Timestamp;
use crate::events::Start;
use crate::submission::http::probe::{check_entry, check_rejection, prepared};
use crate::submission::request::ContentNames;
use crate::submission::steer::Cancel;

/// Recipients of a request whose body is scanned.
const RECIPIENTS_MAX: usize = 10;

/// A message as a client sends it, after an octet that says which: a submission, a watch, suppressions, what is to be taken
/// back; a body of several; or a line of the event log.
///
/// What is wrong is told by field, in words that can be shown. What is right could be sent (a submission), reads the same
/// when it is written (suppressions, cursors, times), and means one thing (what is to be taken back). However a body is cut,
/// the same messages are seen in it, and as much of each as prost sees.
pub fn grpc(octets: &[u8]) {
    let Some((&kind, octets)) = octets.split_first() else { return };
    match kind % 6 {
        0 => submit(octets),
        1 => watch(octets),
        2 => suppressions(octets),
        3 => cancel(octets),
        4 => body(octets),
        _ => event(octets),
    }
}

fn submit(octets: &[u8]) {
    let Ok(asked) = v1::SubmitRequest::decode(octets) else { return };
    let recipients = asked.recipients.len();
    let (request, violations) = translate::request(asked);
    assert_eq!(request.recipients.len(), recipients);
    assert!(violations.iter().all(|violation| !violation.field.is_empty() && !violation.why.is_empty()));
    if violations.is_empty() {
        prepared(request, ContentNames { raw: "raw", parts: "parts." });
    }
}

fn watch(octets: &[u8]) {
    let Ok(asked) = v1::WatchRequest::decode(octets) else { return };
    match events::read(asked) {
        Ok((Start::After(cursor), _)) => assert_eq!(cursor.to_string().parse(), Ok(cursor)),
        Ok((Start::Now | Start::Oldest, _)) => {}
        Err(rejection) => check_rejection(&rejection),
    }
}

fn suppressions(octets: &[u8]) {
    let Ok(asked) = v1::AddSuppressionsRequest::decode(octets) else { return };
    asked.entries.into_iter().take(100).for_each(|entry| check_entry(&text(entry)));
}

fn cancel(octets: &[u8]) {
    let Ok(asked) = v1::CancelRequest::decode(octets) else { return };
    match translate::cancel(asked) {
        Ok(Cancel::Message(id)) => assert_eq!(id.to_string().parse(), Ok(id)),
        Ok(Cancel::Key { key, .. }) => assert_eq!(key.to_string().parse(), Ok(key)),
        Ok(Cancel::Campaign { campaign, .. }) => assert!(!campaign.is_empty()),
        Err(rejection) => check_rejection(&rejection),
    }
}

/// After an octet that says how it is cut: the body of a stream of submissions.
fn body(octets: &[u8]) {
    let Some((&cut, body)) = octets.split_first() else { return };
    let seen = |size: usize| {
        let mut frames = Frames::new(super::reading::Expected { stream: true, recipients_max: Some(RECIPIENTS_MAX) });
        let seen = body.chunks(size.max(1)).try_for_each(|chunk| frames.saw(chunk));
        (seen, frames.lengths().collect::<Vec<_>>())
    };
    let (whole, lengths) = seen(body.len());
    assert_eq!((&whole, &lengths), (&seen(cut.into()).0, &seen(cut.into()).1), "it matters how it is cut");
    if whole.is_err() {
        return;
    }
    // The same by hand: what was let through has no more than a little too much of anything.
    let (mut rest, mut at) = (body, 0);
    while let Some((&[_, a, b, c, d], behind)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        assert_eq!(lengths[at], 5 + length);
        let Some((message, behind)) = behind.split_at_checked(length) else { return };
        (rest, at) = (behind, at + 1);
        if let Ok(asked) = v1::SubmitRequest::decode(message) {
            assert!(asked.recipients.len() <= 4 * RECIPIENTS_MAX && asked.tags.len() <= 4 * 32);
            if let Some(v1::submit_request::Content::Parts(parts)) = asked.content {
                let mailboxes = parts.reply_to.len() + parts.to.len() + parts.cc.len() + parts.bcc.len();
                assert!(
                    mailboxes <= 4 * RECIPIENTS_MAX && parts.headers.len() <= 400 && parts.attachments.len() <= 400
                );
            }
        }
    }
    assert_eq!(at, lengths.len());
}

/// What both readers of a line read is the same.
fn event(octets: &[u8]) {
    let (Ok(seen), Ok(told)) = (line::read::<line::Line<'_>>(octets), line::read::<v1::Event>(octets)) else { return };
    assert_eq!(
        (&*seen.message_id, &*seen.tenant, &*seen.campaign),
        (&*told.message_id, &*told.tenant, &*told.campaign)
    );
    assert_eq!(told.kind(), line::kind(&seen.event));
    for time in [told.time, told.accepted_at, told.next_attempt].into_iter().flatten() {
        let text = translate::time_text(time);
        assert_eq!(translate::timestamp_of(&text), Some(time), "{text}");
        assert!(Timestamp::parse_rfc3339(&text).is_some());
    }
    assert_eq!(v1::Event::decode(&*told.encode_to_vec()).as_ref(), Ok(&told));
}

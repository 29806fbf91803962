//! The fingerprint of a request: what it said, whatever is built of it. Another version that encodes differently must not
//! contradict the keys of this one, so each field counts as it came.

use smallvec::{SmallVec, smallvec};

use super::super::fingerprint::fingerprint_with;
use super::super::options::rfc3339;
use super::envelope::Envelope;
use super::{Attachment, Mailbox, Parts, Request, RequestContent, When};
use crate::clock::Timestamp;
use crate::mail::{Class, Fingerprint, Notify, Ret};

/// The fingerprint of `request`, whose envelope was read; `content` is the content of a raw one, in lines; `own` is the
/// tenant of a client that has one.
pub(super) fn print(request: &Request, envelope: &Envelope, content: &[u8], own: Option<&str>) -> Fingerprint {
    let mut orders = Said(SmallVec::new());
    orders.request(request, own);
    let mut large: SmallVec<[&[u8]; 4]> = SmallVec::new();
    if let RequestContent::Parts(parts) = &request.content {
        orders.parts(parts);
        large.extend([&parts.text, &parts.html].into_iter().flatten().map(String::as_bytes));
        large.extend(parts.attachments.iter().map(|attachment| &attachment.content[..]));
    }
    let mut pieces: SmallVec<[&[u8]; 4]> = smallvec![&orders.0[..]];
    pieces.extend(large);
    fingerprint_with(&envelope.reverse_path, &envelope.recipients, &pieces, content)
}

/// Small fields, each with its length.
struct Said(SmallVec<[u8; 256]>);

/// Stands where a length could: what follows is a time.
const TIME: u64 = u64::MAX - 1;

impl Said {
    fn text(&mut self, text: Option<&str>) {
        let length = text.map_or(u64::MAX, |text| text.len() as u64);
        self.octets(length);
        self.0.extend_from_slice(text.unwrap_or_default().as_bytes());
    }

    fn number(&mut self, number: usize) {
        self.octets(number as u64);
    }

    fn octets(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn time(&mut self, time: Timestamp) {
        self.octets(TIME);
        self.octets(time.0);
    }

    fn mailboxes<'a>(&mut self, list: impl ExactSizeIterator<Item = &'a Mailbox>) {
        self.number(list.len());
        for Mailbox { name, address } in list {
            self.text(name.as_deref());
            self.text(Some(address));
        }
    }

    fn request(&mut self, request: &Request, own: Option<&str>) {
        // Sender and recipients count as read, the content by itself, the key not at all.
        let Request { tenant, campaign, list, class, tags, not_before, expires_at, .. } = request;
        let Request { personal, notify, ret, envid, .. } = request;
        // What goes without saying is the same when it is said. The class of a raw message may be in its header instead.
        let class = class.as_deref().map(str::to_ascii_lowercase).filter(|class| *class != Class::default().as_str());
        for word in [tenant.as_deref().or(own), campaign.as_deref(), class.as_deref(), envid.as_deref()] {
            self.text(word);
        }
        self.number(tags.len());
        tags.iter().for_each(|tag| self.text(Some(tag)));
        for when in [not_before, expires_at] {
            match when {
                None => self.text(None),
                Some(When::Text(text)) => match rfc3339(text) {
                    Some(time) => self.time(time),
                    None => self.text(Some(text)),
                },
                Some(When::At(time)) => self.time(*time),
            }
        }
        let notify = notify.map_or(8, |Notify { success, failure, delay }| {
            usize::from(success) | usize::from(failure) << 1 | usize::from(delay) << 2
        });
        let ret = match ret {
            None => 0,
            Some(Ret::Full) => 1,
            Some(Ret::Hdrs) => 2,
        };
        [usize::from(*personal), notify, ret].into_iter().for_each(|number| self.number(number));
        // Left out where there is none: keys that are older than lists stay what they are.
        if list.is_some() {
            self.text(list.as_deref());
        }
    }

    fn parts(&mut self, parts: &Parts) {
        let Parts { from, reply_to, to, cc, bcc: _, subject, text, html, headers, attachments } = parts;
        self.mailboxes(from.iter().collect::<Vec<_>>().into_iter());
        [reply_to, to, cc].into_iter().for_each(|list| self.mailboxes(list.iter()));
        self.text(subject.as_deref());
        [text, html].into_iter().for_each(|text| self.number(usize::from(text.is_some())));
        for (name, value) in headers {
            // Made anew by many clients each time they send.
            if !name.eq_ignore_ascii_case("Message-ID") {
                self.text(Some(name));
                self.text(Some(value));
            }
        }
        self.number(attachments.len());
        for Attachment { file_name, content_type, content: _, content_id, inline } in attachments {
            [file_name, content_type, content_id].into_iter().for_each(|text| self.text(text.as_deref()));
            self.number(usize::from(*inline));
        }
    }
}

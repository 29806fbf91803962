//! Reads bounces that nobody wrote for machines: finds who failed, and where the words are about each.

use std::collections::{HashMap, HashSet};

use super::parts::{Parts, fields};
use super::words::Words;
use super::{Named, codes};

/// As many recipients are read from words for people: nobody writes longer lists, and each costs a search.
const RECIPIENTS_MAX: usize = super::words::SEARCHED_MAX;

/// Who failed, each with the words about it. At least one; its address is empty when nothing names it.
pub(super) fn recipients(parts: &Parts, words: &Words) -> Vec<Named> {
    let ours = ours(parts, words);
    let mut failed: Vec<String> = Vec::new();
    for name in ["x-failed-recipients", "x-failed-recipient"] {
        addresses(parts.field(name)).into_iter().for_each(|found| add(&mut failed, found.1));
    }
    let found = shaped(words.text());
    if failed.is_empty() {
        let usable = |address: &str| !ours.contains(&address.to_ascii_lowercase()) && !is_service(address);
        let best = found.iter().filter(|one| usable(&one.address)).map(|one| one.shape).max();
        for one in found.iter().filter(|one| Some(one.shape) == best && usable(&one.address)) {
            add(&mut failed, one.address.clone());
        }
    }
    if failed.is_empty() {
        // The sender wrote to himself, or the report names nobody.
        let named =
            found.iter().filter(|one| one.shape == 3 && !is_service(&one.address)).map(|one| one.address.clone());
        named.for_each(|address| add(&mut failed, address));
    }
    if failed.is_empty() {
        original_addressee(parts, words, &ours).into_iter().for_each(|address| add(&mut failed, address));
    }
    if failed.is_empty() {
        failed.push(String::new());
    }
    with_words(failed, words)
}

/// The addresses of who gets the report and of who sends it, in lower case.
fn ours(parts: &Parts, words: &Words) -> HashSet<String> {
    let header = ["to", "from", "return-path", "reply-to", "cc", "sender", "delivered-to"];
    let header = header.iter().flat_map(|name| addresses(parts.field(name))).map(|found| found.1);
    let original = original(parts, words, &["from", "return-path", "sender", "reply-to"]);
    header.chain(original).map(|address| address.to_ascii_lowercase()).collect()
}

/// Whom the original was for: what its last hop said (`for <a@b>`), then what its author wrote.
fn original_addressee(parts: &Parts, words: &Words, ours: &HashSet<String>) -> Option<String> {
    // From the last hop down: whoever forwarded it wrote another name above.
    let fields = fields(original_header(parts, words));
    let told = fields.iter().filter_map(|(name, value)| match name.as_str() {
        "received" => addresses(value.split_once(" for ")?.1).into_iter().next(),
        "x-actual-recipient" | "envelope-to" | "x-original-to" | "delivered-to" => addresses(value).into_iter().next(),
        _ => None,
    });
    let not_ours = |address: &String| !ours.contains(&address.to_ascii_lowercase());
    told.map(|found| found.1).filter(not_ours).chain(original(parts, words, &["to", "cc", "bcc"])).next()
}

/// Each recipient with the words from its place to where another one is named; with all of them when it is alone. One pass
/// over the words finds all places.
fn with_words(failed: Vec<String>, words: &Words) -> Vec<Named> {
    let named = |recipient: String, about: &str| Named { recipient, words: about.to_owned(), ..Named::default() };
    if failed.len() < 2 {
        return failed.into_iter().map(|address| named(address, "")).collect();
    }
    let names: HashMap<String, usize> =
        failed.iter().enumerate().map(|(at, address)| (address.to_ascii_lowercase(), at)).collect();
    let places: Vec<(usize, usize)> = addresses(words.low())
        .into_iter()
        .filter_map(|(place, address)| Some((place, *names.get(&address)?)))
        .collect();
    let mut abouts = vec![""; failed.len()];
    // From behind, so that the first place of each counts, and the next of another is known.
    let (mut next, mut after_next) = ((words.low().len(), usize::MAX), words.low().len());
    for &(place, who) in places.iter().rev() {
        let end = if next.1 == who { after_next } else { next.0 };
        // Recipients in a row share the words around them.
        abouts[who] = if end > place + failed[who].len() + 12 { &words.text()[place..end] } else { "" };
        if next.1 != who {
            after_next = next.0;
        }
        next = (place, who);
    }
    failed.into_iter().zip(abouts).map(|(address, about)| named(address, about)).collect()
}

fn add(failed: &mut Vec<String>, address: String) {
    if failed.len() < RECIPIENTS_MAX && !failed.iter().any(|one| one.eq_ignore_ascii_case(&address)) {
        failed.push(address);
    }
}

/// An address in the words, and how much its place says: 3 at the start of a line, 2 behind a word for a recipient, 1 elsewhere.
struct Shaped {
    address: String,
    shape: u8,
}

fn shaped(words: &str) -> Vec<Shaped> {
    const NAMED: [&str; 26] = [
        "to",
        "to:",
        "recipient",
        "recipient:",
        "address",
        "address:",
        "user",
        "user:",
        "recipients:",
        "adresse",
        "addresses:",
        "users:",
        "for",
        "mailbox",
        "account",
        "destinataire",
        "empfaenger",
        "list",
        "liste",
        "destinatario",
        "destinatario:",
        "empfänger",
        "empfänger:",
        "group",
        "收件人",
        "收件人：",
    ];
    const NOT: [&str; 15] = [
        "250",
        "from:",
        "message-id:",
        "sender:",
        "reply-to:",
        "mail from",
        "in-reply-to:",
        "references:",
        "return-path:",
        "from <",
        "subject:",
        "contact",
        "sent by",
        "please send mail",
        "x-",
    ];
    let mut found = Vec::new();
    for line in words.lines().take(2_000) {
        let low = line.trim_start_matches(['>', ' ', '\t', '-', '*', '<', '|']).to_lowercase();
        if NOT.iter().any(|one| low.starts_with(one)) {
            continue;
        }
        for (at, address) in addresses(line) {
            let lead = line[..at].trim_start();
            let coded = lead.starts_with(['4', '5']) && codes(lead.get(..3).unwrap_or_default()).0.is_some();
            let lead = if coded { lead.get(3..).unwrap_or_default() } else { lead };
            let before = lead.trim_matches(|c: char| c.is_whitespace() || "<>\"'-*•|([=:`".contains(c));
            let word = line[..at]
                .trim_end_matches(['<', ' ', '"', '\'', '(', '['])
                .rsplit([' ', '<', '\t'])
                .next()
                .unwrap_or_default()
                .to_lowercase();
            let shape = if before.is_empty() || before.eq_ignore_ascii_case("rfc822;") {
                3
            } else if NAMED.contains(&word.as_str()) || low.contains("rcpt to:") {
                2
            } else {
                1
            };
            found.push(Shaped { address, shape });
        }
    }
    found
}

/// Addresses that are nobody's: of the reporter, or to be asked.
fn is_service(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    [
        "postmaster",
        "mailer-daemon",
        "abuse",
        "support",
        "helpdesk",
        "noreply",
        "no-reply",
        "hostmaster",
        "webmaster",
        "mail-daemon",
        "listserv",
        "majordomo",
        "mailman",
        "listmaster",
    ]
    .contains(&local.as_str())
        || ["-owner", "-admin", "-request", "-bounces", "-help", "-subscribe", "-unsubscribe", "-ctl"]
            .iter()
            .any(|end| local.ends_with(end))
        || local.starts_with("owner-")
}

/// The header of the original, from its part or behind the words.
fn original_header<'a>(parts: &'a Parts, words: &Words) -> &'a str {
    if parts.original.trim().is_empty() { &parts.human[words.end()..] } else { parts.original.as_str() }
}

/// The addresses in those fields of the original.
fn original(parts: &Parts, words: &Words, names: &[&str]) -> Vec<String> {
    let fields = fields(original_header(parts, words));
    let of = |name: &&str| {
        fields
            .iter()
            .filter(move |field| field.0 == **name)
            .flat_map(|field| addresses(&field.1))
            .map(|f| f.1)
            .collect::<Vec<_>>()
    };
    names.iter().flat_map(of).collect()
}

/// The addresses in a text, with where they begin.
fn addresses(text: &str) -> Vec<(usize, String)> {
    let local = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b) || b >= 0x80;
    let host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || b >= 0x80;
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut from = 0;
    for at in memchr::memchr_iter(b'@', bytes) {
        if at < from {
            continue;
        }
        let before = bytes[from..at].iter().rev().take_while(|b| local(**b)).count().min(64 * 4);
        let after = bytes[at + 1..].iter().take_while(|b| host(**b)).count().min(255);
        let mut start = at - before;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let end = text.floor_char_boundary(at + 1 + after);
        let whole = text[start..end].trim_end_matches(['.', '-', '_']);
        let lead = whole.len() - whole.trim_start_matches(['\'', '`', '=', '/', '.', '*', '|']).len();
        let whole = &whole[lead..];
        // Marks of Chinese and Japanese texts stand beside an address without a space.
        let mark = |c: char| matches!(c, '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ff20}' | '\u{2018}'..='\u{201d}');
        let sign = whole.find('@').unwrap_or(0);
        let more = whole[..sign].char_indices().filter(|(_, c)| mark(*c)).map(|(at, c)| at + c.len_utf8()).next_back();
        let (lead, whole) = (lead + more.unwrap_or(0), &whole[more.unwrap_or(0)..]);
        let whole = &whole[..whole.find(mark).unwrap_or(whole.len())];
        from = end;
        let well = whole
            .split_once('@')
            .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty() && !host.starts_with(['.', '-']));
        if well {
            found.push((start + lead, whole.to_owned()));
        }
    }
    found
}

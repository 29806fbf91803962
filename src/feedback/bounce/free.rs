//! Reads bounces that nobody wrote for machines: finds who failed, and the words about them.

use super::parts::{Parts, fields};
use super::{Named, codes};

/// As many recipients are read from words for people: nobody writes longer lists, and each costs a search.
const RECIPIENTS_MAX: usize = 50;

/// Lines behind which the original message stands.
const CUTS: [&str; 28] = [
    "original message",
    "copy of the message",
    "copy of your message",
    "copy of the original",
    "message follows",
    "message header",
    "message headers",
    "headers follow",
    "header follows",
    "unsent message",
    "returned message",
    "message returned",
    "text of your message",
    "text of the message",
    "original header",
    "the header of",
    "headers of the",
    "start of message",
    "start of returned",
    "copy of message",
    "your message reads",
    "begin message",
    "returned mail follows",
    "original mail",
    "ursprungliche nachricht",
    "message d'origine",
    "mensaje original",
    "mensagem original",
];

/// Formulas that say nothing of the cause.
const FORMULAS: [&str; 14] = [
    "i've given up",
    "giving up on",
    "sorry it didn't work out",
    "this is a permanent error",
    "message header follows",
    "please try again",
    "for further assistance",
    "please send mail to",
    "if you do so, please include this problem report",
    "you can delete your own text",
    "contact the postmaster",
    "i wasn't able to deliver your message",
    "contact your system administrator",
    "retry using the correct",
];

/// Words for people up to where the original begins.
pub(super) fn own_words(parts: &Parts) -> &str {
    let text = parts.human.as_str();
    let (mut at, mut seen) = (0, 0);
    for line in text.split_inclusive('\n') {
        let low = line.to_lowercase();
        let trimmed = low.trim();
        let ruled = trimmed.starts_with(['-', '=', '*', '_', '+'])
            || (trimmed.ends_with(':') && trimmed.len() < 80 && !trimmed.contains("receive"))
            || (trimmed.ends_with('.') && trimmed.len() < 40);
        let cut = ruled && low.len() < 160 && CUTS.iter().any(|one| low.contains(one));
        let returned = ["return-path:", "received: from", "received: by", "dkim-signature:", "mime-version:"];
        if seen > 2 && (cut || returned.iter().any(|one| low.trim_start_matches(['>', ' ']).starts_with(one))) {
            return &text[..at];
        }
        at += line.len();
        seen += 1;
    }
    text
}

/// The words without formulas.
pub(super) fn without_formulas(words: &str) -> String {
    let low = words.to_lowercase();
    let joined = low.split_whitespace().collect::<Vec<_>>().join(" ");
    FORMULAS.iter().fold(joined, |text, formula| text.replace(formula, " "))
}

/// The words that may tell why a recipient failed, the most telling first: its paragraph from the reply on, its paragraph,
/// everything.
pub(super) fn candidates(words: &str, recipient: &str) -> Vec<String> {
    let words: String = words.lines().filter(|line| !is_foreign(line)).flat_map(|line| [line, "\n"]).collect();
    let start = place(&words, recipient).unwrap_or(0);
    let about = &words[start..];
    let mut found = Vec::new();
    let line = about.lines().next().unwrap_or_default();
    found.extend(reply_start(line).map(|at| line[at..].to_owned()));
    for paragraph in about.split("\n\n").chain(words.split("\n\n")).take(200) {
        if let Some(at) = reply_start(paragraph) {
            found.push(paragraph[at..].to_owned());
            break;
        }
    }
    if !recipient.is_empty() {
        found.push(about.split("\n\n").next().unwrap_or_default().to_owned());
    }
    found.push(about.to_owned());
    found.push(words);
    found
}

/// Lines that repeat what the sender wrote.
fn is_foreign(line: &str) -> bool {
    let low = line.trim_start_matches(['>', ' ', '\t']);
    low.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("subject:"))
}

/// Where a refusal begins: a line's `<<< 550 …`, or what follows a colon.
fn reply_start(paragraph: &str) -> Option<usize> {
    let mut from = 0;
    for line in paragraph.split_inclusive('\n') {
        let starts = std::iter::once(0).chain(line.match_indices([':', '<', '\'', '"', ' ']).map(|found| found.0 + 1));
        for start in starts {
            let rest = line[start..].trim_start();
            let ended = rest.as_bytes().get(3).is_some_and(|b| matches!(b, b' ' | b'-' | b':'));
            if ended && rest.starts_with(['4', '5']) && codes(rest.get(..4).unwrap_or_default()).0.is_some() {
                return Some(from + line.len() - rest.len());
            }
        }
        from += line.len();
    }
    None
}

/// Who failed, each with the words about it. At least one; its address is empty when nothing names it.
pub(super) fn recipients(parts: &Parts) -> Vec<Named> {
    let words = own_words(parts);
    let ours: Vec<String> = ["to", "from", "return-path", "reply-to", "cc", "sender", "delivered-to"]
        .iter()
        .flat_map(|name| addresses(parts.field(name)))
        .map(|found| found.1.to_ascii_lowercase())
        .chain(
            original(parts, &["from", "return-path", "sender", "reply-to"]).into_iter().map(|a| a.to_ascii_lowercase()),
        )
        .collect();
    let mut failed: Vec<String> = Vec::new();
    for name in ["x-failed-recipients", "x-failed-recipient"] {
        addresses(parts.field(name)).into_iter().for_each(|found| add(&mut failed, found.1));
    }
    let sent_to =
        original(parts, &["x-actual-recipient", "to", "cc", "bcc", "x-original-to", "envelope-to", "delivered-to"]);
    let found = shaped(words);
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
        sent_to.into_iter().take(1).for_each(|address| add(&mut failed, address));
    }
    if failed.is_empty() {
        failed.push(String::new());
    }
    let low = words.to_ascii_lowercase();
    let names: Vec<String> = failed.iter().map(|address| address.to_ascii_lowercase()).collect();
    failed.iter().enumerate().map(|(at, address)| named(words, &low, address, at, &names)).collect()
}

/// A recipient with the words from its place to where another one is named; with all of them when it is alone.
fn named(words: &str, low: &str, address: &str, at: usize, names: &[String]) -> Named {
    let about = match low.find(&names[at]).filter(|_| names.len() > 1) {
        Some(start) => {
            let rest = &low[start..];
            let others = names.iter().enumerate().filter(|other| other.0 != at);
            let end = others.filter_map(|other| rest.find(other.1)).min().unwrap_or(rest.len());
            // Recipients in a row share the words around them.
            if end > address.len() + 12 { words[start..start + end].to_owned() } else { words.to_owned() }
        }
        None => words.to_owned(),
    };
    Named { recipient: address.to_owned(), words: about, ..Named::default() }
}

fn place(words: &str, address: &str) -> Option<usize> {
    words.to_ascii_lowercase().find(&address.to_ascii_lowercase()).filter(|_| !address.is_empty())
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
    const NAMED: [&str; 17] = [
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
    ]
    .contains(&local.as_str())
}

/// The addresses in those fields of the original.
fn original(parts: &Parts, names: &[&str]) -> Vec<String> {
    let behind = &parts.human[own_words(parts).len()..];
    let header = if parts.original.trim().is_empty() { behind } else { parts.original.as_str() };
    let fields = fields(header);
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

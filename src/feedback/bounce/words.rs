//! The words of a report for people: where they end, and which of them may tell why a recipient failed.
//!
//! Foreign text, looked at for every recipient: each step is linear in it, and it is prepared once. Of many recipients only
//! the first [`SEARCHED_MAX`] are searched for; the others are judged by all the words.

use std::cell::Cell;

use super::parts::Parts;

/// For as many recipients the place where they are named is searched.
pub(super) const SEARCHED_MAX: usize = 50;

/// As much of a candidate is looked at, in bytes.
const CANDIDATE_MAX: usize = 8 * 1024;

/// Lines behind which the original message stands.
const CUTS: [&str; 37] = [
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
    "message is returned",
    "returned below",
    "text of your message",
    "text of the message",
    "message text follows",
    "original header",
    "the header of",
    "headers of the",
    "header of the source",
    "start of message",
    "start of returned",
    "copy of message",
    "your message reads",
    "begin message",
    "returned mail follows",
    "original mail",
    "undelivered message",
    "ursprunglichen nachricht",
    "ursprüngliche nachricht",
    "ursprünglichen nachricht",
    "message d'origine",
    "mensaje original",
    "mensagem original",
    "messaggio originale",
    "исходн",
];

/// Fields with which an original message begins.
const RETURNED: [&str; 8] = [
    "return-path:",
    "received: from",
    "received: by",
    "received: (",
    "dkim-signature:",
    "mime-version:",
    "x-received:",
    "delivered-to:",
];

/// Formulas that say nothing of the cause.
const FORMULAS: [&str; 28] = [
    "returned to sender",
    "returned to the sender",
    "returning message to sender",
    "return to sender",
    "to the sender",
    "back to sender",
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
    "does not like recipient",
    "could not be delivered to one or more of its recipients",
    "please check the address",
    "check the e-mail address",
    "check the email address",
    "try to resend the message",
    "do not reply to this message",
    "this message was created automatically by mail delivery software",
];

/// The words of a report, prepared.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Those up to where the original begins, without lines that repeat what the sender wrote.
    text: String,
    /// The same in ASCII lower case: places are the same.
    low: String,
    /// How much was left behind the words of a report, from there on.
    end: usize,
    /// Octets looked at, for tests that count work.
    looked: Cell<usize>,
}

impl Words {
    pub(super) fn of(parts: &Parts) -> Words {
        let end = own_words(&parts.human);
        let mut words = Words { end, ..Words::default() };
        words.set(&parts.human[..end]);
        words
    }

    /// Other words, of one recipient.
    fn new(text: &str) -> Words {
        let mut words = Words::default();
        words.set(text);
        words
    }

    fn set(&mut self, text: &str) {
        self.text = text.lines().filter(|line| !is_foreign(line)).flat_map(|line| [line, "\n"]).collect();
        self.low = self.text.to_ascii_lowercase();
        self.looked.set(text.len() * 2);
    }

    /// All of them.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same in ASCII lower case.
    pub(super) fn low(&self) -> &str {
        &self.low
    }

    /// Where in the words for people the original begins.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Octets looked at so far.
    #[cfg(test)]
    pub(super) fn looked(&self) -> usize {
        self.looked.get()
    }

    /// Whether a refusal with its code stands in them.
    pub(super) fn has_reply(&self) -> bool {
        self.reply_start(&self.text).is_some()
    }

    /// The words that may tell why a recipient failed, the most telling first: its line from the reply on, the first
    /// paragraph with a reply, its paragraph, everything.
    pub(super) fn candidates(&self, recipient: &str) -> Vec<&str> {
        let place = if recipient.is_empty() { None } else { self.find(&recipient.to_ascii_lowercase()) };
        let start = place.unwrap_or(0);
        let about = &self.text[start..];
        let mut found = Vec::new();
        let line = about.lines().next().unwrap_or_default();
        found.extend(self.reply_start(line).map(|at| &line[at..]));
        if let Some(at) = self.reply_start(about) {
            found.push(paragraph(&about[at..]));
        } else if let Some(at) = self.reply_start(&self.text[..start]) {
            found.push(paragraph(&self.text[at..]));
        }
        if place.is_some() {
            found.push(paragraph(about));
            // What stands under it, or at its side: an empty line between is usual.
            let behind = about.find("\n\n").map_or("", |at| about[at..].trim_start());
            found.push(paragraph(behind));
        }
        found.push(about);
        found.push(&self.text);
        found.into_iter().map(cut).filter(|text| !text.trim().is_empty()).collect()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.looked.set(self.looked.get() + self.low.len());
        self.low.find(name)
    }

    /// What the receiver said of it in a transcript of sendmail's: `<<< 550 no`, before `550 <a@b>... User unknown` or after
    /// `>>> RCPT To:<a@b>`.
    pub(super) fn transcript(&self, recipient: &str) -> Option<&str> {
        let from = memchr::memmem::find(self.low.as_bytes(), b"transcript of session").unwrap_or(0);
        self.looked.set(self.looked.get() + self.low.len());
        let place = from + self.low[from..].find(&recipient.to_ascii_lowercase()).filter(|_| !recipient.is_empty())?;
        let mut start = self.text[..place].rfind('\n').map_or(0, |at| at + 1);
        if self.text[start..].starts_with(">>>") {
            let next = start + self.text[start..].find('\n')? + 1;
            let said = self.text[next..].split_inclusive('\n').take_while(|line| line.starts_with("<<<"));
            let end = next + said.map(str::len).sum::<usize>();
            return (next < end).then(|| &self.text[next..end]);
        }
        let end = start;
        while let Some(before) = start.checked_sub(1).map(|at| self.text[..at].rfind('\n').map_or(0, |at| at + 1)) {
            if !self.text[before..].starts_with("<<<") {
                break;
            }
            start = before;
        }
        self.looked.set(self.looked.get() + place - start);
        (start < end).then(|| &self.text[start..end])
    }

    /// Where a refusal begins: a line's `<<< 550 …`, or what follows a colon. One look at each octet.
    fn reply_start(&self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        for at in memchr::memchr2_iter(b'4', b'5', bytes) {
            let opened = at.checked_sub(1).is_none_or(|before| b"\n:;<'\" \t#".contains(&bytes[before]));
            let ended = bytes.get(at + 3).is_some_and(|b| matches!(b, b' ' | b'-' | b':'));
            if opened && ended && super::codes(text.get(at..at + 4).unwrap_or_default()).0.is_some() {
                self.looked.set(self.looked.get() + at);
                return Some(at);
            }
        }
        self.looked.set(self.looked.get() + text.len());
        None
    }
}

/// Whether a candidate begins with what a receiver said.
pub(super) fn is_reply(text: &str) -> bool {
    let text = text.trim_start_matches(['<', ' ']);
    text.starts_with(['4', '5']) && super::codes(text.get(..4).unwrap_or_default()).0.is_some()
}

/// The candidates in words that are one recipient's own.
pub(super) fn own_candidates(words: &str, recipient: &str) -> Vec<String> {
    Words::new(words).candidates(recipient).into_iter().map(str::to_owned).collect()
}

fn paragraph(text: &str) -> &str {
    text.split("\n\n").next().unwrap_or_default()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(CANDIDATE_MAX)]
}

/// Where the original begins in the words for people.
fn own_words(text: &str) -> usize {
    let (mut at, mut seen) = (0, 0);
    for line in text.split_inclusive('\n') {
        // Longer lines are nobody's heading.
        let low = if line.len() < 400 { line.to_lowercase() } else { String::new() };
        let trimmed = low.trim();
        let ruled = trimmed.starts_with(['-', '=', '*', '_', '+', '|', '#'])
            || (trimmed.ends_with(':') && trimmed.len() < 80 && !trimmed.contains("receive"))
            || (trimmed.ends_with('.') && trimmed.len() < 40);
        let cut = ruled && low.len() < 160 && CUTS.iter().any(|one| low.contains(one));
        let quoted = low.trim_start_matches(['>', ' ']);
        if seen > 2 && (cut || RETURNED.iter().any(|one| quoted.starts_with(one))) {
            return at;
        }
        at += line.len();
        seen += 1;
    }
    text.len()
}

/// Lines that repeat what the sender wrote.
fn is_foreign(line: &str) -> bool {
    let low = line.trim_start_matches(['>', ' ', '\t']);
    low.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("subject:"))
}

/// The words without formulas.
pub(super) fn without_formulas(words: &str) -> String {
    let low = words.to_lowercase();
    let joined = low.split_whitespace().collect::<Vec<_>>().join(" ");
    FORMULAS.iter().fold(joined, |text, formula| text.replace(formula, " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::bounce::free;

    /// Every way through the words of a hostile report, for as many recipients as are searched for.
    fn work(text: &str) -> (usize, usize) {
        let parts = Parts { human: text.to_owned(), ..Parts::default() };
        let words = Words::of(&parts);
        let named = free::recipients(&parts, &words);
        for one in named.iter().take(SEARCHED_MAX) {
            words.transcript(&one.recipient);
            words.candidates(&one.recipient);
        }
        (words.looked(), named.len())
    }

    /// Work is counted, not time: twice the words may cost twice as much for each recipient, not four times.
    #[test]
    fn work_grows_as_the_words_do() {
        for piece in
            [" ", "<", ":", "5", "550 ", " 55", "\n\n", "a@b ", "<<< 550\n", ">>> a@b.example\n", "\"'", "--\n", "é"]
        {
            let measured = |octets: usize| work(&piece.repeat(octets / piece.len()));
            let ((small, few), (large, many)) = (measured(6_000), measured(48_000));
            assert!(many <= SEARCHED_MAX && few <= SEARCHED_MAX);
            // Six searches or looks for each of the recipients, and what is prepared once.
            assert!(large <= 48_000 * (6 * many + 4), "{piece:?}: {large} octets looked at for {many}");
            assert!(large <= 16 * small + 48_000, "{piece:?}: {small}, then {large}");
        }
    }

    #[test]
    fn the_receivers_own_line_goes_before_ours() {
        let parts = Parts {
            human: "   ----- Transcript of session follows -----\n>>> MAIL From:<me@here.example>\n<<< 550 no relay\n\
                    554 <a@b.example>... Remote protocol error\n>>> RCPT To:<c@d.example>\n<<< 550 who is that\n"
                .to_owned(),
            ..Parts::default()
        };
        let words = Words::of(&parts);
        assert_eq!(words.transcript("a@b.example"), Some("<<< 550 no relay\n"));
        assert_eq!(words.transcript("C@d.example"), Some("<<< 550 who is that\n"));
        assert_eq!(words.transcript("me@here.example"), Some("<<< 550 no relay\n"));
        assert_eq!(words.transcript("nobody@b.example"), None);
        assert_eq!(words.transcript(""), None);
    }
}

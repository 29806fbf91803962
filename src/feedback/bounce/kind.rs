//! Weighs what a message is. A bounce is believed from its machine-readable part, or when several things agree.
//!
//! The words are a table, `config/replies/kinds.toml`, searched as those of replies are.

use std::sync::LazyLock;

use serde::Deserialize;

use super::parts::Parts;
use super::words::Words;
use super::{Kind, Named, json};
use crate::mail::wording::{Phrases, PhrasesBuilder, Wording, comparable};

/// The finding.
pub(super) enum Weighed {
    /// Read it as a bounce.
    Bounce,
    /// It is this.
    Other(Kind),
}

/// What is read of the table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    senders: Vec<String>,
    subjects: Vec<String>,
    texts: Vec<String>,
    delays: Vec<String>,
    ends: Vec<String>,
    absences: Vec<String>,
    vacations: Vec<String>,
    challenges: Vec<String>,
    refusals: Vec<String>,
    holds: Vec<String>,
}

/// The table, ready.
struct Kinds {
    phrases: Phrases,
    senders: Vec<String>,
    absence_starts: Vec<String>,
    subjects: Wording,
    texts: Vec<Wording>,
    delays: Wording,
    ends: Wording,
    absences: Wording,
    vacations: Wording,
    challenges: Wording,
    refusals: Wording,
    holds: Wording,
}

/// Compiled in; a test reads it, so that it cannot fail at run time.
static KINDS: LazyLock<Kinds> = LazyLock::new(|| {
    let table: Table = toml::from_str(include_str!("../../../config/replies/kinds.toml")).expect("tested");
    let mut builder = PhrasesBuilder::default();
    let mut any = |texts: &[String]| builder.wording(texts, &[]);
    let texts = table.texts.iter().map(|text| any(std::slice::from_ref(text))).collect();
    let (subjects, delays, ends) = (any(&table.subjects), any(&table.delays), any(&table.ends));
    let (absences, vacations) = (any(&table.absences), any(&table.vacations));
    let (challenges, refusals, holds) = (any(&table.challenges), any(&table.refusals), any(&table.holds));
    let phrases = builder.build().expect("some hundred short texts");
    let (senders, absence_starts) = (table.senders, table.absences);
    Kinds {
        phrases,
        senders,
        absence_starts,
        subjects,
        texts,
        delays,
        ends,
        absences,
        vacations,
        challenges,
        refusals,
        holds,
    }
});

/// Fields that vacation programs set, whatever they hold.
const ANSWER_FIELDS: [&str; 8] = [
    "x-autoreply",
    "x-autorespond",
    "x-autoresponse",
    "x-auto-response",
    "x-auto-reply",
    "x-autoreply-from",
    "x-vacation",
    "x-mail-autoreply",
];

/// Fields of list servers.
const LIST_FIELDS: [&str; 8] = [
    "list-id",
    "list-post",
    "list-subscribe",
    "x-mailman-version",
    "x-ml-name",
    "x-mlserver",
    "x-ml-info",
    "x-listserver",
];

/// A list says no in less, in bytes.
const REFUSAL_MAX: usize = 3_000;

pub(super) fn weigh(parts: &Parts, words: &Words) -> Weighed {
    if parts.complaint {
        return Weighed::Other(Kind::Complaint);
    }
    let reported = super::status::recipients(&parts.status);
    if !reported.is_empty() {
        return if is_answer_with_report(parts, words, &reported) {
            Weighed::Other(Kind::AutoReply)
        } else {
            Weighed::Bounce
        };
    }
    match json::notified(&parts.human) {
        Some(json::Notified::Bounce(_)) => return Weighed::Bounce,
        Some(json::Notified::Complaint) => return Weighed::Other(Kind::Complaint),
        None => {}
    }
    if parts.disposition {
        return Weighed::Other(Kind::AutoReply);
    }
    let signs = Signs::of(parts, words);
    if signs.is_answer() {
        return Weighed::Other(Kind::AutoReply);
    }
    if signs.refused || signs.weight() >= if signs.daemon || signs.named { 4 } else { 5 } {
        Weighed::Bounce
    } else {
        Weighed::Other(Kind::Other)
    }
}

/// Whether a report is an auto-reply's all the same: a challenge in the form of a report, which quotes no receiver, or an
/// auto-reply that repeats the report it answers.
fn is_answer_with_report(parts: &Parts, words: &Words, reported: &[Named]) -> bool {
    let signs = Signs::of(parts, words);
    let quotes = reported.iter().any(|one| super::codes(&one.diagnostic).0.is_some_and(|code| code >= 400));
    (signs.challenge || signs.starts_absent || signs.held) && !quotes && !signs.named
        || parts.loose_status && !signs.daemon && signs.is_answer()
}

/// Whether a report for people says that delivery is still tried.
pub(super) fn is_delayed(parts: &Parts, words: &Words) -> bool {
    let text = comparable(parts.field("subject")) + &comparable(words.text());
    let found = KINDS.phrases.find(&text);
    KINDS.delays.is_met(&found) && !KINDS.ends.is_met(&found)
}

/// What speaks for a bounce and against it.
struct Signs {
    /// A mailer wrote it, by its name.
    daemon: bool,
    /// It names who failed in its header.
    named: bool,
    /// Its subject is of a failure.
    about_failure: bool,
    /// Its words are of a failure: how many texts, at most 2.
    says: i32,
    /// Its words hold a code of a refusal.
    coded: bool,
    /// A list does not take what was posted.
    refused: bool,
    /// A list keeps what was posted for somebody to look at.
    held: bool,
    /// Its subject is an auto-reply's, from the start on.
    starts_absent: bool,
    /// Its subject or header is an auto-reply's.
    absent: bool,
    /// Its words are an auto-reply's.
    away: bool,
    /// It asks the author to prove something.
    challenge: bool,
    /// A program wrote it as an answer (RFC 3834 §5).
    replied: bool,
    /// The rest, each a point.
    points: i32,
}

impl Signs {
    fn of(parts: &Parts, words: &Words) -> Signs {
        let subject = comparable(parts.field("subject"));
        let about = KINDS.phrases.find(&subject);
        let text = comparable(words.text());
        let found = KINDS.phrases.find(&text);
        let from = parts.field("from").to_lowercase();
        let has = |names: &[&str]| names.iter().any(|name| !parts.field(name).is_empty());
        let daemon = KINDS.senders.iter().any(|one| from.contains(one.as_str()));
        let submitted = parts.field("auto-submitted").to_lowercase();
        let list =
            has(&LIST_FIELDS) || from.contains("-owner@") || from.contains("-help@") || from.contains("-bounces@");
        let answers = has(&ANSWER_FIELDS) || parts.field("precedence").eq_ignore_ascii_case("auto_reply");
        let answer = subject.trim_start().starts_with("re:") || has(&["in-reply-to"]);
        // People on lists write about refusals, too: at more length, or in answers.
        let said = daemon || list && !answer && words.text().len() < REFUSAL_MAX;
        let starts = |one: &String| subject.trim_start().starts_with(one.as_str());
        let mut signs = Signs {
            daemon,
            named: has(&["x-failed-recipients", "x-failed-recipient"]),
            about_failure: KINDS.subjects.is_met(&about),
            says: KINDS.texts.iter().filter(|one| one.is_met(&found)).count().min(2) as i32,
            coded: words.has_reply() || super::codes(words.text()).0.is_some_and(|code| code >= 400),
            refused: (list || daemon) && KINDS.refusals.is_met(&about) || said && KINDS.refusals.is_met(&found),
            held: KINDS.holds.is_met(&about) || KINDS.holds.is_met(&found),
            starts_absent: KINDS.absence_starts.iter().any(starts),
            absent: answers || KINDS.absences.is_met(&about),
            away: KINDS.vacations.is_met(&found),
            challenge: KINDS.challenges.is_met(&found)
                || KINDS.challenges.is_met(&about)
                || has(&["x-bluebottle-request"])
                || parts.field("x-delivery-agent").starts_with("TMDA"),
            replied: submitted.starts_with("auto-replied"),
            points: 0,
        };
        signs.points += i32::from(parts.field("return-path") == "<>");
        signs.points += if parts.field("content-type").to_lowercase().contains("delivery-status") { 3 } else { 0 };
        signs.points += i32::from(!submitted.is_empty() && submitted != "no");
        signs.points -= if answer && !daemon { 2 } else { 0 };
        signs.points -= if has(&["list-unsubscribe"]) && !daemon { 1 } else { 0 };
        signs.points += i32::from(!parts.original.is_empty() && (daemon || signs.about_failure));
        let line = |line: &str| line.starts_with('<') && line.trim_end().ends_with(">:");
        signs.points += i32::from(daemon && parts.human.lines().any(line));
        signs
    }

    /// Whether it is an auto-reply. Mailers mark their bounces as answers, too, so that it takes more than the mark; and an
    /// auto-reply repeats the subject it answers, which may be of a bounce.
    fn is_answer(&self) -> bool {
        if self.named {
            return false;
        }
        let bounce = self.daemon && self.says > 0 && self.coded;
        if self.starts_absent || self.challenge || self.held {
            return !bounce || self.challenge && self.says < 2;
        }
        let marked = self.absent || self.replied;
        let calm = self.away && !self.coded && (!self.daemon || self.says < 2);
        if self.about_failure {
            let answers = self.absent && !self.daemon && !self.coded;
            return calm && (marked || !self.daemon) || self.away && marked && !bounce || answers;
        }
        self.absent || self.replied && !self.daemon && !self.refused || calm && (marked || self.points > 0)
    }

    fn weight(&self) -> i32 {
        let two = |sign: bool| if sign { 2 } else { 0 };
        two(self.daemon)
            + two(self.about_failure)
            + 2 * two(self.named)
            + self.says
            + i32::from(self.coded)
            + self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_as_texts_are_compared() {
        let table: Table = toml::from_str(include_str!("../../../config/replies/kinds.toml")).expect("sound");
        let lists = [
            table.subjects,
            table.texts,
            table.delays,
            table.ends,
            table.absences,
            table.vacations,
            table.challenges,
            table.refusals,
            table.holds,
        ];
        for text in lists.iter().flatten() {
            for part in text.split(" & ") {
                assert_eq!(comparable(part).trim(), part.trim(), "{text}");
            }
        }
        assert!(!KINDS.senders.is_empty());
    }
}

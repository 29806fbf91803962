//! Gathers refusals that no rule knows, so that the next rule is written for what is said most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Verdict;
use crate::mail::wording::comparable;

/// More different texts are only counted.
const CLUSTERS_MAX: usize = 50_000;

/// As much of a normalised text is kept, in bytes: what follows is links and addresses of help.
const TEXT_MAX: usize = 200;

/// As much of an example is kept, in bytes.
const EXAMPLE_MAX: usize = 500;

/// A verdict below this rests on three digits, or on nothing.
const KNOWN: u8 = 60;

/// Refusals that say the same in the same words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The words without what is one's own: digits, addresses, hosts, links, identifiers, what is quoted.
    pub text: String,
    /// How often it was said.
    pub count: u64,
    /// The first of them as it was said, at most 500 bytes.
    pub example: String,
}

/// The unknown among many refusals. Memory is bounded: of more than 50,000 different texts the rest is only counted.
#[derive(Debug, Default)]
pub struct Unknown {
    clusters: HashMap<String, (u64, String)>,
    read: u64,
    unknown: u64,
    left_out: u64,
}

impl Verdict {
    /// Whether no rule knew the text, and no code said enough without it.
    pub fn is_guess(&self) -> bool {
        self.confidence < KNOWN
    }
}

impl Unknown {
    /// Counts a refusal, and keeps its words if its verdict is a guess.
    pub fn add(&mut self, reply: &str, verdict: &Verdict) {
        self.read += 1;
        if !verdict.is_guess() {
            return;
        }
        self.unknown += 1;
        let full = self.clusters.len() >= CLUSTERS_MAX;
        match self.clusters.entry(normalised(reply)) {
            Entry::Occupied(mut known) => known.get_mut().0 += 1,
            Entry::Vacant(_) if full => self.left_out += 1,
            Entry::Vacant(new) => {
                let example = &reply[..reply.floor_char_boundary(EXAMPLE_MAX)];
                new.insert((1, example.to_owned()));
            }
        }
    }

    /// Refusals counted.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Those that no rule knows.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Those of the unknown that are in no cluster, because there were too many.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The clusters, the most frequent first, then by their words.
    pub fn clusters(self) -> Vec<Cluster> {
        let made = self.clusters.into_iter().map(|(text, (count, example))| Cluster { text, count, example });
        let mut clusters: Vec<Cluster> = made.collect();
        clusters.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.text.cmp(&other.text)));
        clusters
    }
}

/// What is left of a reply without what is one's own.
fn normalised(reply: &str) -> String {
    let text = without_quoted(&comparable(reply));
    let mut made = String::with_capacity(text.len().min(TEXT_MAX + 32));
    let mut last = "";
    for word in text.split_whitespace() {
        let word = general(word);
        // A row of identifiers is as good as one.
        if word.is_empty() || (word == last && word.starts_with('<')) {
            continue;
        }
        if !made.is_empty() {
            made.push(' ');
        }
        made.push_str(word);
        last = word;
        if made.len() > TEXT_MAX {
            break;
        }
    }
    made.truncate(made.floor_char_boundary(TEXT_MAX));
    made
}

/// The text with `"…"` for what stands in quotation marks. An apostrophe within a word is none.
fn without_quoted(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('"') {
        let Some(len) = rest[open + 1..].find('"') else { break };
        made.push_str(&rest[..open]);
        made.push_str("\"…\"");
        rest = &rest[open + len + 2..];
    }
    made.push_str(rest);
    made
}

/// A word as all say it, or what kind of thing it is.
fn general(word: &str) -> &str {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '@');
    if word.contains("://") || bare.starts_with("www.") {
        "<link>"
    } else if word.contains('@') {
        "<address>"
    } else if is_host(bare) {
        "<host>"
    } else if bare.bytes().any(|b| b.is_ascii_digit()) || bare.len() > 24 && bare.is_ascii() {
        "<id>"
    } else {
        bare
    }
}

/// `mx1.example.com`, `192.0.2.1`, `mx.example.com[192.0.2.1`.
fn is_host(word: &str) -> bool {
    let name = word.split(['[', '/', ':']).next().unwrap_or_default();
    let labels: Vec<&str> = name.split('.').collect();
    let label = |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    labels.len() > 1
        && labels.iter().all(label)
        && labels.last().is_some_and(|last| last.len() > 1 || labels.len() == 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::classify::classify_line;

    #[test]
    fn what_is_ones_own_is_taken_out() {
        for (reply, expected) in [
            ("550 5.0.0 <a@b.example>: Blarg 42 at mx1.b.example[192.0.2.1]", "<address> blarg <id> at <host>"),
            ("554 blarg \"what you wrote\" (x1y2z3) [AB12] https://help.example/4711", "blarg <id> <link>"),
            ("451 blarg from 192.0.2.1, see 2001:db8::1", "blarg from <host> see <id>"),
            ("550 you can't", "you can't"),
            ("", ""),
        ] {
            assert_eq!(normalised(reply), expected, "{reply}");
        }
    }

    #[test]
    fn the_unknown_are_counted_by_their_words() {
        let mut unknown = Unknown::default();
        for reply in [
            "550 5.0.0 blarg of <a@b.example> by mx1.b.example",
            "550 5.0.0 blarg of <c@b.example> by mx7.b.example",
            "554 gnurf",
            "550 5.1.1 no such user",
        ] {
            unknown.add(reply, &classify_line(reply, ""));
        }
        assert_eq!((unknown.read(), unknown.unknown(), unknown.left_out()), (4, 3, 0));
        let clusters = unknown.clusters();
        let shown: Vec<(u64, &str)> = clusters.iter().map(|one| (one.count, one.text.as_str())).collect();
        assert_eq!(shown, [(2, "blarg of <address> by <host>"), (1, "gnurf")]);
        assert_eq!(clusters[0].example, "550 5.0.0 blarg of <a@b.example> by mx1.b.example");
    }
}

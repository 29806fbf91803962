//! What went wrong before: addresses that do not answer, hosts whose TLS is broken or whose extensions misbehave.
//!
//! A pure table; the time is an argument. Bounded: when it is full, what expires first goes.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::config::TlsPolicy;
use crate::mail::Failure;

/// Entries in each of the two tables.
const ENTRIES_MAX: usize = 20_000;

/// How long an extension that misbehaved is left alone, and a limit on recipients believed.
const TRAIT_TTL: Duration = Duration::from_secs(3600);

/// What a failure concerns: an address is dead for the source that found it so (another one may not be blocked), a
/// refusal is only for those who come the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PathKey {
    pub(super) address: SocketAddr,
    /// Our source, by name.
    pub(super) source: Arc<str>,
    /// `None`: whoever comes from it.
    pub(super) way: Option<Way>,
}

/// From which of the source's addresses, and under which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) local: Option<IpAddr>,
    pub(super) tls: TlsPolicy,
    pub(super) credentials: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Memory {
    paths: HashMap<PathKey, Unreachable>,
    hosts: HashMap<Box<str>, HostNotes>,
    pause_min: Duration,
    pause_max: Duration,
    entries_max: usize,
}

/// An address that failed last time.
#[derive(Debug)]
struct Unreachable {
    failures: u32,
    /// Left alone until then; then the first who asks may probe.
    until: Instant,
    probing: bool,
    failure: Failure,
}

/// May this address be tried?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Permit {
    /// Nothing known against it.
    Free,
    /// It was dead; this is the one probe.
    Probe,
    /// Not before this time.
    Refused { until: Instant, failure: Failure },
}

#[derive(Debug, Default)]
struct HostNotes {
    tls_broken: Option<Instant>,
    no_chunking: Option<Instant>,
    no_pipelining: Option<Instant>,
    recipients_max: Option<(usize, Instant)>,
}

/// What to leave out with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Quirks {
    pub(super) tls_broken: bool,
    pub(super) no_chunking: bool,
    pub(super) no_pipelining: bool,
    pub(super) recipients_max: Option<usize>,
}

impl Memory {
    /// Addresses rest `pause_min` after a failure, doubling up to `pause_max`.
    pub(super) fn new(pause_min: Duration, pause_max: Duration) -> Memory {
        Memory { paths: HashMap::new(), hosts: HashMap::new(), pause_min, pause_max, entries_max: ENTRIES_MAX }
    }

    /// Until when, and why, this path is left alone.
    pub(super) fn unreachable(&self, path: &PathKey, now: Instant) -> Option<(Instant, &Failure)> {
        self.paths.get(path).filter(|entry| entry.until > now).map(|entry| (entry.until, &entry.failure))
    }

    /// Asks before connecting. A probe that neither succeeds nor fails within `claim` may be followed by another.
    pub(super) fn begin(&mut self, path: &PathKey, now: Instant, claim: Duration) -> Permit {
        match self.paths.get_mut(path) {
            None => Permit::Free,
            Some(entry) if entry.until > now => Permit::Refused { until: entry.until, failure: entry.failure.clone() },
            Some(entry) => {
                entry.until = now + claim;
                entry.probing = true;
                Permit::Probe
            }
        }
    }

    /// It failed. Says until when it is left alone.
    pub(super) fn failed(&mut self, path: PathKey, permit: &Permit, failure: &Failure, now: Instant) -> Instant {
        let failures = match (self.paths.get(&path), permit) {
            (None, _) => 1,
            // A straggler that began before the path was known dead tells nothing new.
            (Some(entry), Permit::Free) if entry.until > now || entry.probing => return entry.until.max(now),
            (Some(entry), Permit::Free | Permit::Probe | Permit::Refused { .. }) => entry.failures.saturating_add(1),
        };
        let until = now + self.pause(failures);
        make_room(&mut self.paths, self.entries_max, now, |entry| entry.until);
        self.paths.insert(path, Unreachable { failures, until, probing: false, failure: failure.clone() });
        until
    }

    /// Forgets which paths failed.
    pub(super) fn forget_unreachable(&mut self) {
        self.paths.clear();
    }

    /// It answered.
    pub(super) fn succeeded(&mut self, path: &PathKey) {
        self.paths.remove(path);
    }

    fn pause(&self, failures: u32) -> Duration {
        let doubled = self.pause_min.saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.pause_max.max(self.pause_min))
    }

    /// What to leave out with `host` now.
    pub(super) fn quirks(&self, host: &str, now: Instant) -> Quirks {
        let Some(notes) = self.hosts.get(host) else { return Quirks::default() };
        let holds = |until: Option<Instant>| until.is_some_and(|until| until > now);
        Quirks {
            tls_broken: holds(notes.tls_broken),
            no_chunking: holds(notes.no_chunking),
            no_pipelining: holds(notes.no_pipelining),
            recipients_max: notes.recipients_max.filter(|(_, until)| *until > now).map(|(max, _)| max),
        }
    }

    /// Its TLS does not work; speak in the clear for `ttl`, where that is allowed.
    pub(super) fn note_tls_broken(&mut self, host: &str, now: Instant, ttl: Duration) {
        self.notes(host, now).tls_broken = Some(now + ttl);
    }

    /// It insists on TLS, so what was noted against its TLS cannot be the whole truth.
    pub(super) fn forget_tls_broken(&mut self, host: &str, now: Instant) {
        self.notes(host, now).tls_broken = None;
    }

    /// BDAT misbehaved; use DATA for a while.
    pub(super) fn note_no_chunking(&mut self, host: &str, now: Instant) {
        self.notes(host, now).no_chunking = Some(now + TRAIT_TTL);
    }

    /// It lost step when commands came together.
    pub(super) fn note_no_pipelining(&mut self, host: &str, now: Instant) {
        self.notes(host, now).no_pipelining = Some(now + TRAIT_TTL);
    }

    /// It takes this many recipients at a time.
    pub(super) fn note_recipients_max(&mut self, host: &str, max: usize, now: Instant) {
        self.notes(host, now).recipients_max = Some((max, now + TRAIT_TTL));
    }

    fn notes(&mut self, host: &str, now: Instant) -> &mut HostNotes {
        if !self.hosts.contains_key(host) {
            make_room(&mut self.hosts, self.entries_max, now, |notes| notes.until().unwrap_or(now));
        }
        self.hosts.entry(host.into()).or_default()
    }
}

impl HostNotes {
    /// When the last of them expires.
    fn until(&self) -> Option<Instant> {
        let limit = self.recipients_max.map(|(_, until)| until);
        [self.tls_broken, self.no_chunking, self.no_pipelining, limit].into_iter().flatten().max()
    }
}

/// Before an insertion into a full table: drops what expired, and if that is too little the sixteenth that expires
/// first, so that the work is shared by many insertions.
fn make_room<K: Clone + Eq + Hash, V>(
    table: &mut HashMap<K, V>,
    max: usize,
    now: Instant,
    until: impl Fn(&V) -> Instant,
) {
    if table.len() < max {
        return;
    }
    // Unreachable entries outlive their pause a little: the count of failures must survive until the probe.
    let kept = now.checked_sub(Duration::from_secs(600)).unwrap_or(now);
    table.retain(|_, value| until(value) > kept);
    let spare = max / 16 + 1;
    if table.len() + spare > max {
        let mut ends: Vec<(Instant, K)> = table.iter().map(|(key, value)| (until(value), key.clone())).collect();
        let cut = spare.min(ends.len());
        if cut < ends.len() {
            ends.select_nth_unstable_by_key(cut, |(end, _)| *end);
        }
        for (_, key) in ends.into_iter().take(cut) {
            table.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::mail::{Blame, EnhancedCode};

    const MIN: Duration = Duration::from_secs(60);
    const CLAIM: Duration = Duration::from_secs(30);

    fn path(n: u16) -> PathKey {
        PathKey { address: SocketAddr::from(([192, 0, 2, 1], n)), source: "a".into(), way: None }
    }

    fn failure() -> Failure {
        Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "refused")
    }

    fn memory() -> Memory {
        Memory::new(MIN, 30 * MIN)
    }

    #[test]
    fn a_dead_address_costs_one_probe_a_pause_and_the_pause_doubles() {
        let mut memory = memory();
        let mut now = Clock.instant();
        assert_eq!(memory.begin(&path(1), now, CLAIM), Permit::Free);
        let mut until = memory.failed(path(1), &Permit::Free, &failure(), now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pauses.push((until - now).as_secs() / 60);
            assert!(memory.unreachable(&path(1), until - Duration::from_millis(1)).is_some());
            now = until;
            assert!(memory.unreachable(&path(1), now).is_none());
            assert_eq!(memory.begin(&path(1), now, CLAIM), Permit::Probe);
            assert!(matches!(memory.begin(&path(1), now, CLAIM), Permit::Refused { .. }), "only one probe");
            until = memory.failed(path(1), &Permit::Probe, &failure(), now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        memory.succeeded(&path(1));
        assert_eq!(memory.begin(&path(1), now, CLAIM), Permit::Free);
    }

    #[test]
    fn stragglers_do_not_lengthen_the_pause() {
        let mut memory = memory();
        let now = Clock.instant();
        let until = memory.failed(path(1), &Permit::Free, &failure(), now);
        for _ in 0..10 {
            assert_eq!(memory.failed(path(1), &Permit::Free, &failure(), now + CLAIM), until);
        }
        // Even while the probe is under way.
        assert_eq!(memory.begin(&path(1), until, CLAIM), Permit::Probe);
        assert_eq!(memory.failed(path(1), &Permit::Free, &failure(), until), until + CLAIM);
    }

    #[test]
    fn a_probe_that_got_lost_is_followed_by_another() {
        let mut memory = memory();
        let now = Clock.instant();
        let until = memory.failed(path(1), &Permit::Free, &failure(), now);
        assert_eq!(memory.begin(&path(1), until, CLAIM), Permit::Probe);
        assert!(matches!(memory.begin(&path(1), until + CLAIM / 2, CLAIM), Permit::Refused { .. }));
        assert_eq!(memory.begin(&path(1), until + CLAIM, CLAIM), Permit::Probe);
    }

    #[test]
    fn quirks_expire() {
        let mut memory = memory();
        let now = Clock.instant();
        memory.note_tls_broken("mx", now, 10 * MIN);
        memory.note_no_chunking("mx", now);
        memory.note_no_pipelining("mx", now);
        memory.note_recipients_max("mx", 5, now);
        let all = Quirks { tls_broken: true, no_chunking: true, no_pipelining: true, recipients_max: Some(5) };
        assert_eq!(memory.quirks("mx", now), all);
        assert_eq!(memory.quirks("mx", now + 10 * MIN), Quirks { tls_broken: false, ..all });
        assert_eq!(memory.quirks("mx", now + 60 * MIN), Quirks::default());
        assert_eq!(memory.quirks("other", now), Quirks::default());
    }

    #[test]
    fn tables_stay_within_their_bound() {
        let mut memory = Memory { entries_max: 100, ..memory() };
        let now = Clock.instant();
        for n in 0..1000 {
            memory.failed(path(n), &Permit::Free, &failure(), now + Duration::from_secs(n.into()));
            memory.note_no_chunking(&n.to_string(), now + Duration::from_secs(n.into()));
            assert!(memory.paths.len() <= 100 && memory.hosts.len() <= 100);
        }
        assert!(memory.paths.contains_key(&path(999)) && !memory.paths.contains_key(&path(0)), "the oldest went");
        assert!(memory.hosts.contains_key("999") && !memory.hosts.contains_key("0"));
    }
}

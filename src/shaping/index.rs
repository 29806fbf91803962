//! Rules (orders, limits) by what they name, so that those about some mail are found however many there are.
//!
//! Each is filed under the rarest thing it names, and a question costs one look-up for each kind of thing that any rule is
//! filed under.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::config::{Scope, Subject};

/// Rules by the rarest thing they name.
#[derive(Debug)]
pub(super) struct Index<T> {
    named: [HashMap<u64, Filed<T>>; KINDS],
    /// Those that name only a class, or nothing.
    wide: Filed<T>,
}

type Filed<T> = SmallVec<[T; 2]>;

/// Kinds of things a rule is filed under.
const KINDS: usize = 7;

impl<T> Default for Index<T> {
    fn default() -> Index<T> {
        Index { named: Default::default(), wide: Filed::new() }
    }
}

impl<T: Copy + PartialEq> Index<T> {
    /// Files a rule about `scope`.
    pub(super) fn file(&mut self, scope: &Scope, rule: T) {
        self.filed(scope).push(rule);
    }

    /// Takes a rule out again.
    pub(super) fn unfile(&mut self, scope: &Scope, rule: T) {
        let filed = self.filed(scope);
        filed.retain(|other| *other != rule);
        let empty = filed.is_empty();
        if let (true, Some((kind, name))) = (empty, rarest(scope)) {
            self.named[kind].remove(&folded(name));
        }
    }

    /// All that may be about exactly `scope`, and others.
    pub(super) fn beside(&self, scope: &Scope) -> &[T] {
        match rarest(scope) {
            Some((kind, name)) => self.named[kind].get(&folded(name)).map_or(&[], |filed| filed),
            None => &self.wide,
        }
    }

    /// All that may be about the subject: they may name more than they are filed under, or have a name with the same hash.
    pub(super) fn about(&self, subject: &Subject<'_>, mut see: impl FnMut(T)) {
        for (named, name) in self.named.iter().zip(names(subject)) {
            if named.is_empty() {
                continue;
            }
            let filed = named.get(&folded(name));
            filed.into_iter().flatten().for_each(|rule| see(*rule));
        }
        self.wide.iter().for_each(|rule| see(*rule));
    }

    /// Nothing is filed.
    pub(super) fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.named.iter().all(HashMap::is_empty)
    }

    fn filed(&mut self, scope: &Scope) -> &mut Filed<T> {
        match rarest(scope) {
            Some((kind, name)) => self.named[kind].entry(folded(name)).or_default(),
            None => &mut self.wide,
        }
    }
}

/// The first thing named, of those with most different names first. That there is no tenant or campaign is said of much mail,
/// so it comes last.
fn rarest(scope: &Scope) -> Option<(usize, &str)> {
    let named: [&Option<String>; KINDS] =
        [&scope.campaign, &scope.domain, &scope.site, &scope.tenant, &scope.source, &scope.pool, &scope.provider];
    let all = || named.iter().enumerate().filter_map(|(kind, name)| Some((kind, name.as_deref()?)));
    all().find(|(_, name)| !name.is_empty()).or_else(|| all().next())
}

/// In the order of [`rarest`].
fn names<'a>(subject: &Subject<'a>) -> [&'a str; KINDS] {
    let Subject { campaign, domain, site, tenant, source, pool, provider, .. } = *subject;
    [campaign, domain, site, tenant, source, pool, provider]
}

/// A hash that does not tell capitals from small letters (FNV-1a): scopes do not, either.
pub(super) fn folded(name: &str) -> u64 {
    let octets = name.bytes().map(|octet| u64::from(octet.to_ascii_lowercase()));
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ octet).wrapping_mul(0x0100_0000_01b3))
}

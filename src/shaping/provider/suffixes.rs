//! Which MX hosts are whose.

use std::collections::HashMap;

use super::file::Merged;
use super::{DEFAULT, RELAY};
use crate::config::Problem;
use crate::mail::Domain;

/// Profiles by the domains of their hosts.
#[derive(Debug, Default)]
pub(super) struct Suffixes(HashMap<String, usize>);

impl Suffixes {
    /// The table, with what is wrong in it told.
    pub(super) fn new(profiles: &[Merged], problems: &mut Vec<Problem>) -> Suffixes {
        let mut table: HashMap<String, usize> = HashMap::new();
        for (place, profile) in profiles.iter().enumerate() {
            let by_route = profile.name == DEFAULT || profile.name == RELAY;
            for (index, suffix) in profile.mx.iter().enumerate() {
                let key = format!("mx[{index}]");
                let mut complain = |why: String, remedy: &str| problems.push(profile.origin.error(&key, why, remedy));
                if by_route {
                    let why = format!("the profile {} is never found by MX", profile.name);
                    complain(why, "give these hosts a profile of another name");
                } else if suffix.parse::<Domain>().is_ok_and(|domain| domain.as_str() != suffix.as_str())
                    || suffix.parse::<Domain>().is_err()
                {
                    let why = format!("{suffix:?} is no domain in lower case");
                    complain(why, "write the end of the hosts' names, as in \"google.com\"");
                } else if let Some(other) = table.get(suffix).filter(|other| **other != place) {
                    let why = format!("{suffix} is of {}, too", profiles[*other].name);
                    complain(why, "leave it to one of the two");
                } else if table.insert(suffix.clone(), place).is_some() {
                    problems.push(profile.origin.warning(&key, format!("{suffix} is there twice"), "remove one"));
                }
            }
            if profile.mx.is_empty() && !by_route {
                let why = format!("no site is of {}", profile.name);
                problems.push(profile.origin.warning("mx", why, "list the ends of its MX hosts' names: mx = [ … ]"));
            }
        }
        let suffixes = Suffixes(table);
        suffixes.tell_needless(profiles, problems);
        suffixes
    }

    /// A suffix below another of the same profile changes nothing.
    fn tell_needless(&self, profiles: &[Merged], problems: &mut Vec<Problem>) {
        for (place, profile) in profiles.iter().enumerate() {
            for (index, suffix) in profile.mx.iter().enumerate() {
                let above = suffix.split_once('.').and_then(|(_, rest)| self.owner(rest));
                if above == Some(place) {
                    let why = format!("{suffix} is below another of the list");
                    problems.push(profile.origin.warning(&format!("mx[{index}]"), why, "remove it"));
                }
            }
        }
    }

    /// The profile with the longest suffix of this host, which is in lower case.
    pub(super) fn owner(&self, host: &str) -> Option<usize> {
        let mut rest = host.trim_end_matches('.');
        loop {
            if let Some(place) = self.0.get(rest) {
                return Some(*place);
            }
            rest = rest.split_once('.')?.1;
        }
    }
}

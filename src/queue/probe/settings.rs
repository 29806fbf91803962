//! What the configuration says at a time: limits, and sources that are there, gone, out, and back.

use std::net::IpAddr;
use std::sync::Arc;

use super::World;
use super::routes::HOSTS;
use crate::config::{Config, Dimension, LimitConfig, Scope, SourceConfig};
use crate::mail::Class;
use crate::queue::scheduler::PathId;
use crate::routing::Egress;
use crate::shaping::Rows;

/// What the configurations in turn have.
const CONFIGURED: [&[&str]; 4] = [&["a", "b"], &["b"], &["b", "a"], &[]];

/// Some of every kind: of a site, of all, of a class, of one domain.
fn some_limits() -> Rows {
    let pace = |rate: &str| Some(rate.parse().expect("a rate"));
    let of = |scope, each: &[Dimension]| LimitConfig { scope, each: each.to_vec(), ..LimitConfig::default() };
    let bulk = Scope { class: Some(Class::Bulk), ..Scope::default() };
    let domain = Scope { domain: Some(HOSTS[0].into()), ..Scope::default() };
    Rows::new(&[
        LimitConfig { messages: pace("20/s burst 2"), ..of(Scope::default(), &[Dimension::Site]) },
        LimitConfig { connections: Some(2), recipients: pace("40/s burst 3"), ..of(Scope::default(), &[]) },
        LimitConfig { messages: pace("3/s"), ..of(bulk, &[]) },
        LimitConfig { messages: pace("1/s"), recipients_per_transaction: Some(2), ..of(domain, &[Dimension::Class]) },
    ])
}

impl World<'_> {
    /// The limits are read anew, if there are any.
    pub(super) fn limit(&mut self) {
        if self.limited {
            self.scheduler.set_rows(self.now, some_limits(), &mut self.actions);
        }
    }

    /// Another configuration is in force; or one source lost its address, or, if one had lost it, all are back.
    pub(super) fn change_sources(&mut self, address: bool) {
        if address {
            self.lose_or_find();
            return self.scheduler.sources_changed(self.now, &mut self.actions);
        }
        let source = |(place, name): (usize, &&str)| SourceConfig {
            name: (*name).into(),
            addresses: vec![IpAddr::from([192, 0, 2, place as u8 + 1])],
            ehlo: None,
            proxy: None,
            username: None,
            password_file: None,
        };
        let sources = CONFIGURED[self.reloaded % CONFIGURED.len()];
        self.reloaded += 1;
        let config = Config { source: sources.iter().enumerate().map(source).collect(), ..Config::default() };
        let egress = Egress::new(&config, Some(&self.egress)).expect("there is nothing to read");
        self.egress = Arc::new(egress);
        self.scheduler.set_egress(Arc::clone(&self.egress));
        self.scheduler.forget_routes(self.now, &mut self.actions);
        // As a reload does: the paths are others, and stand under no limit yet.
        self.limit();
    }

    fn lose_or_find(&self) {
        let is_out = self.egress.sources().any(|(_, source)| source.is_out());
        for (_, source) in self.egress.sources() {
            if is_out {
                source.look_for_addresses(|_| true);
            } else if let [address] = source.addresses.as_slice() {
                source.note_lost(Some(*address), "it is gone");
                return;
            }
        }
    }

    /// Nobody connects from a source that is not configured, or is out.
    pub(super) fn must_be_there(&self, path: PathId) {
        let mut sources = self.egress.sources();
        assert!(sources.any(|(id, source)| id == path.source && !source.is_out()), "{path:?} is dialled");
    }
}

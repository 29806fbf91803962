//! A site with many streams, for benchmarks.

use std::sync::Arc;

use tokio::sync::Notify;

use super::routes::ROUTES;
use crate::clock::Timestamp;
use crate::config::{Dimension, LimitConfig};
use crate::mail::{Class, MessageId, Stream};
use crate::queue::scheduler::{Action, Group, Newcomer, PathId, Recipients, Scheduler};
use crate::routing::SourceId;
use crate::shaping::Rows;

/// For benchmarks: a site with mail of many streams, one message each, and a session that picks them in turn.
#[allow(missing_debug_implementations, reason = "nobody prints it")]
pub struct Crowd {
    scheduler: Scheduler,
    path: PathId,
    idle: Arc<Notify>,
    actions: Vec<Action>,
}

impl Crowd {
    /// So many streams. With `limits`, there are some of the site and of each tenant, with tokens enough.
    pub fn new(streams: usize, limits: bool) -> Crowd {
        let mut scheduler = Scheduler::default();
        scheduler.limits.connections_max = 1;
        scheduler.limits.connections_per_site = 1;
        scheduler.limits.recipients_per_transaction = 100;
        let mut actions = Vec::new();
        if limits {
            let limit = |each| LimitConfig {
                each: vec![each],
                messages: Some("1000000000/s".parse().expect("a rate")),
                ..LimitConfig::default()
            };
            let rows = Rows::new(&[limit(Dimension::Site), limit(Dimension::Tenant)]);
            scheduler.set_rows(1, rows, &mut actions);
        }
        let (host, route) = ROUTES.with(|routes| {
            let (host, route) = routes.iter().next().expect("there are some");
            (host.clone(), Arc::clone(route))
        });
        for serial in 0..streams {
            let id = MessageId(serial as u64 + 1);
            let (tenant, campaign) = (format!("tenant {}", serial % 1000), format!("campaign {serial}"));
            let stream = &Stream { tenant: tenant.into(), class: Class::Bulk, campaign: campaign.into() };
            let groups = [Group {
                host: &host,
                attempts: 0,
                late: false,
                recipients: Recipients::One(0),
                due: 1,
                refused: false,
            }];
            let accepted_at = Timestamp(0);
            let newcomer =
                Newcomer { id, stream, accepted_at, recipients: 1, size: 10_000, expires: u64::MAX, apart: false };
            scheduler.add(1, newcomer, groups, &mut actions);
            for action in std::mem::take(&mut actions) {
                if let Action::Resolve(host, _) = action {
                    scheduler.routed(1, host, Ok(Arc::clone(&route)), u64::MAX, &mut actions);
                }
            }
        }
        let path = PathId { site: 0, source: SourceId(0) };
        scheduler.connected(1, path, &mut actions);
        Crowd { scheduler, path, idle: Arc::default(), actions }
    }

    /// Picks so many messages and puts each back behind the others. Returns how many that were.
    pub fn pick(&mut self, messages: usize) -> usize {
        let mut picked = 0;
        for _ in 0..messages {
            let Some(batch) = self.scheduler.next_batch(1, self.path, &self.idle, &mut self.actions) else { break };
            self.scheduler.landed(&batch.items);
            self.scheduler.give_back(batch.taken);
            for item in batch.items {
                picked += 1;
                self.scheduler.put_back(1, self.path.site, item, &mut self.actions);
            }
            self.actions.clear();
        }
        picked
    }
}

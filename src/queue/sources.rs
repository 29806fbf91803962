//! Sources that come and go: an address is taken from this host, a proxy dies; and they come back.
//!
//! A session that finds its source gone says so at once ([`Queue::source_lost`]). For what nobody has tried, and for what
//! comes back, one task looks every few seconds. Either way it is told in the log, in metrics, in `/readyz`, and as an
//! event; the other sources of the pool take over, and mail that has no other waits without losing attempts.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use crate::events::{About, Notice, NoticeKind};
use crate::routing::Source;

/// How often sources are looked at: what came back is used again so much later. A look costs a system call an address.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Queue {
    /// Looks after the sources of whatever configuration is in force, until the queue closes.
    pub(super) async fn watch_sources(self: Arc<Queue>) {
        loop {
            self.look_at_sources().await;
            let again = async {
                // Without addresses or proxies there is nothing that could go away.
                match self.egress().sources().any(|(_, source)| source.needs_watch()) {
                    true => tokio::time::sleep(LOOK_EVERY).await,
                    false => self.reloaded.notified().await,
                }
            };
            if self.stopping.run_until_cancelled(again).await.is_none() {
                return;
            }
        }
    }

    async fn look_at_sources(self: &Arc<Queue>) {
        let egress = self.egress();
        for (_, source) in egress.sources().filter(|(_, source)| source.needs_watch()) {
            let Some(changed) = self.stopping.run_until_cancelled(source.look()).await else { return };
            if changed {
                self.tell_of_source(source);
                self.with_actions(|scheduler, now, actions| scheduler.sources_changed(now, actions));
            }
        }
    }

    /// A session could not send from this address of the source, or could not reach its proxy.
    pub(super) fn source_lost(self: &Arc<Queue>, source: &Source, address: Option<IpAddr>, why: &str) {
        if source.note_lost(address, why) {
            self.tell_of_source(source);
            self.with_actions(|scheduler, now, actions| scheduler.sources_changed(now, actions));
        }
    }

    /// What operators have to know of the sources, one a line: `None`: they are all as configured.
    pub fn sources_trouble(&self) -> Option<String> {
        let egress = self.egress();
        let tell = |source: &Source| {
            let trouble = source.trouble()?;
            let state = if source.is_out() { "out" } else { "lacks an address" };
            Some(format!("source {} {state}: {trouble}\n", source.name))
        };
        let lines: String = egress.sources().filter_map(|(_, source)| tell(source)).collect();
        (!lines.is_empty()).then_some(lines)
    }

    fn tell_of_source(&self, source: &Source) {
        let (name, trouble) = (&source.name, source.trouble());
        let what = match (&trouble, source.is_out()) {
            (None, _) => {
                tracing::info!(source = %name, "source is back");
                "back"
            }
            (Some(why), true) => {
                tracing::error!(source = %name, %why, "source is out: nothing is sent from it until it is back");
                "out"
            }
            (Some(why), false) => {
                tracing::warn!(source = %name, %why, "source lacks an address: it is not used until it is back");
                "impaired"
            }
        };
        let gauge = |state| self.metrics.sources.with_label_values(&[&**name, state]);
        gauge("out").set(source.is_out().into());
        gauge("impaired").set((trouble.is_some() && !source.is_out()).into());
        let about = About { source: name, ..About::default() };
        let mut notice = Notice::new(self.clock.timestamp(), NoticeKind::Source, what, about);
        notice.cause = trouble.as_deref().unwrap_or_default();
        self.spool.note(notice.line());
    }
}

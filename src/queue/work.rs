//! What the scheduler asks for is carried out, and it is woken when somebody is due.

use std::sync::Arc;
use std::time::Duration;

use super::scheduler::{Action, HostId, Verdict};
use super::{Queue, heed};
use crate::mail::AddressHost;
use crate::routing::NoRoute;

impl Queue {
    /// Carries out what the scheduler asked for. Not under its lock.
    pub(super) fn run(self: &Arc<Queue>, actions: Vec<Action>) {
        for action in actions {
            let queue = Arc::clone(self);
            match action {
                Action::Wake(session) => session.notify_one(),
                Action::Connect(path) => self.spawn(queue.run_session(path)),
                Action::Resolve(host, name) => self.spawn(queue.resolve(host, name)),
                Action::Settle(items, verdict) => self.spawn(queue.settle_unattempted(items, verdict)),
                Action::Expire(id, recipients) => self.spawn(queue.expire(id, recipients)),
                Action::Paced(route, source, change) => self.tell_pace(&route, source, change),
                Action::Cancel(id, recipients) => self.spawn(queue.end_cancelled(id, recipients)),
                Action::OrderEnded(order) => self.order_ended(&order),
                Action::Braked(braked) => self.braked(braked),
            }
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    async fn resolve(self: Arc<Queue>, host: HostId, name: AddressHost) {
        loop {
            let parts = self.parts.load_full();
            let Some(found) = self.stopping.run_until_cancelled(parts.router.route(&name)).await else { return };
            let (found, until) = match found {
                Ok(route) => {
                    let until = route.valid_until;
                    (Ok(heed::with_provider(&parts.profiles, route)), until)
                }
                Err(NoRoute::Later { failure, until }) => (Err(Verdict::Later(failure)), until),
                Err(NoRoute::Never { failure, until }) => (Err(Verdict::Never(failure)), until),
            };
            let until = until.saturating_duration_since(self.started).as_millis() as u64;
            let current = self.with_actions(|scheduler, now, actions| {
                // What was found under an old configuration may have the wrong policy. A reload changes the parts before
                // it takes this lock, so either we see the new ones here, or it forgets what we say.
                let current = Arc::ptr_eq(&parts, &*self.parts.load());
                if current {
                    scheduler.routed(now, host, found, until, actions);
                }
                current
            });
            if current {
                return;
            }
        }
    }

    /// The one clock: sleeps until the earliest sleeper or expiry, exactly.
    pub(super) async fn run_timers(self: Arc<Queue>) {
        loop {
            let mut actions = Vec::new();
            let next = {
                let mut scheduler = self.lock();
                if scheduler.stopped() {
                    return;
                }
                let now = self.now();
                scheduler.steering().set_time(now, self.clock.timestamp());
                scheduler.tick(now, &mut actions);
                scheduler.arm()
            };
            self.run(actions);
            match next {
                None => self.rearm.notified().await,
                Some(next) => {
                    let until = self.started + Duration::from_millis(next);
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        () = self.rearm.notified() => {}
                    }
                }
            }
        }
    }
}

//! A session task: one connection to one site, which pulls work until there is none.

use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Sleep;

use super::dial::NoConnection;
use super::scheduler::{Action, Batch, Item, PathId, SiteId};
use super::settlement::Attempted;
use super::{Parts, Queue, paced};
use crate::clock::Timestamp;
use crate::delivery::{Connection, Job};
use crate::feedback::marks::{Marked, Signing};
use crate::mail::{Blame, Domain, EnhancedCode, Failure, Outcome, Recipient};
use crate::routing::Route;
use crate::signing::Added;
use crate::spool::{Message, SpoolError};

/// Transactions a session may have before it makes room for a site without one. A connection costs about as much as a few.
const SHARE: u32 = 10;

/// Gives the session's place back whatever becomes of the task.
struct Slot {
    queue: Arc<Queue>,
    path: PathId,
    connecting: bool,
    yielding: bool,
    /// It has taken a transaction to its end.
    proved: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.queue.with_actions(|scheduler, now, actions| {
            if self.yielding {
                scheduler.yielded();
            }
            if self.proved {
                scheduler.proved_ended(self.path);
            }
            scheduler.session_ended(now, self.path, self.connecting, actions);
        });
    }
}

/// How a session came to its end.
enum Ending {
    /// Nothing to do, its share done, or shutting down.
    Done,
    /// Another site needs the connection more.
    Yields,
    /// The connection broke.
    Broken(Failure),
}

impl Queue {
    /// The life of one session: connect, serve, quit.
    pub(super) async fn run_session(self: Arc<Queue>, path: PathId) {
        let mut slot = Slot { queue: Arc::clone(&self), path, connecting: true, yielding: false, proved: false };
        let parts = self.parts.load_full();
        let (route, pool) = {
            let scheduler = self.lock();
            let site = scheduler.site(path.site);
            (Arc::clone(&site.route), site.pool)
        };
        // A reload that is under way may have taken the source out.
        if !parts.egress.sources_of(pool).iter().any(|(source, _)| *source == path.source) {
            return;
        }
        let gauge = |state| self.metrics.connections.with_label_values(&[route.provider, state]);
        gauge("connecting").inc();
        let dialled = self.stopping.run_until_cancelled(self.dial(&parts, &route, path.source)).await;
        gauge("connecting").dec();
        let mut connection = match dialled {
            Some(Ok(connection)) => connection,
            Some(Err(NoConnection::Now(failure))) => {
                self.heed(path.source, &route, None, &[], Some(&failure));
                return self.path_failed(path, false, &failure);
            }
            Some(Err(NoConnection::Ever(failure))) => {
                return self.with_actions(|scheduler, _, actions| scheduler.dead_end(path.site, failure, actions));
            }
            // Other sources go on; if there are none, the mail waits until this one is back.
            Some(Err(NoConnection::Source(_))) | None => return,
        };
        slot.connecting = false;
        self.with_actions(|scheduler, now, actions| scheduler.connected(now, path, actions));
        gauge("open").inc();
        let ending = self.serve(&parts, &mut slot, &route, &mut connection).await;
        gauge("open").dec();
        match ending {
            Ending::Done => connection.quit().await,
            Ending::Yields => {
                slot.yielding = true;
                connection.quit().await;
            }
            // A connection that never delivered and broke is as good as none.
            // But if it was told to slow down, the receiver is there.
            Ending::Broken(failure)
                if !slot.proved && !paced::says_slow(&failure, (&parts.profiles, route.provider)) =>
            {
                self.path_failed(path, true, &failure);
            }
            Ending::Broken(failure) => {
                tracing::debug!(site = %route.site, reason = %failure.reply, "session ended early");
            }
        }
    }

    fn path_failed(self: &Arc<Queue>, path: PathId, met: bool, failure: &Failure) {
        self.with_actions(|scheduler, now, actions| scheduler.unreachable(now, path, met, failure, actions));
    }

    /// Pulls and delivers until there is nothing to do or the connection has had its share.
    async fn serve(
        self: &Arc<Queue>,
        parts: &Parts,
        slot: &mut Slot,
        route: &Route,
        connection: &mut Connection,
    ) -> Ending {
        let path = slot.path;
        let wake = Arc::new(Notify::new());
        let mut patience = pin!(tokio::time::sleep(parts.delivery.idle_timeout));
        let most = parts.delivery.messages_per_connection.min(self.lock().messages_per_connection(path));
        for served in 0..most {
            self.breathe().await;
            let batch = loop {
                let next = self.with_actions(|scheduler, now, actions| {
                    // A new configuration may want other TLS, other limits: connections made under the old one end.
                    if !std::ptr::eq(parts, &**self.parts.load()) {
                        return Err(Ending::Done);
                    }
                    if served > 0 && scheduler.is_too_wide(path) {
                        return Err(Ending::Done);
                    }
                    if served >= SHARE && scheduler.must_yield() {
                        return Err(Ending::Yields);
                    }
                    if served >= SHARE && scheduler.must_hand_on(path) {
                        return Err(Ending::Done);
                    }
                    let next = scheduler.next_batch(now, path, &wake, actions);
                    if next.is_none() && scheduler.is_crowded(path) {
                        scheduler.leave_idle(path, &wake);
                        return Err(Ending::Done);
                    }
                    Ok(next)
                });
                match next {
                    Err(ending) => return ending,
                    Ok(Some(batch)) => break batch,
                    Ok(None) => {
                        patience.as_mut().reset(self.clock.instant() + parts.delivery.idle_timeout);
                        if !self.idle(path, connection, &wake, patience.as_mut()).await {
                            return Ending::Done;
                        }
                    }
                }
            };
            match self.attempt(path, route, connection, batch, served == 0).await {
                Err(failure) => return Ending::Broken(failure),
                Ok(true) if !slot.proved => {
                    slot.proved = true;
                    self.lock().proved(path);
                }
                Ok(_) => {}
            }
            if !connection.is_usable() {
                return Ending::Done;
            }
        }
        Ending::Done
    }

    /// Waits for work with the connection open, as long as `patience` lasts. False: end the session.
    async fn idle(
        &self,
        path: PathId,
        connection: &mut Connection,
        wake: &Arc<Notify>,
        patience: Pin<&mut Sleep>,
    ) -> bool {
        if self.lock().stopped() {
            return false;
        }
        let woken = tokio::select! {
            biased;
            () = wake.notified() => true,
            () = connection.idle() => false,
            () = patience => false,
        };
        let mut scheduler = self.lock();
        let handed_work = !scheduler.leave_idle(path, wake);
        // Work was handed over while the connection died: hand it on.
        if !woken && handed_work {
            drop(scheduler);
            return connection.is_usable();
        }
        woken && !scheduler.stopped()
    }

    /// One transaction; false if there was no need for it, or it could not be had.
    ///
    /// # Errors
    /// Why the connection is gone.
    async fn attempt(
        self: &Arc<Queue>,
        path: PathId,
        route: &Route,
        connection: &mut Connection,
        batch: Batch,
        fresh: bool,
    ) -> Result<bool, Failure> {
        let Batch { message: id, items, taken } = batch;
        let (site, began) = (path.site, self.now());
        let started = self.clock.timestamp();
        let message = match self.stopping.run_until_cancelled(self.contents.load(&self.spool, id)).await {
            Some(Ok(message)) => message,
            None => {
                self.with_actions(|scheduler, now, actions| {
                    scheduler.landed(&items);
                    scheduler.give_back(taken);
                    items.into_iter().for_each(|item| scheduler.put_back(now, site, item, actions));
                });
                return Ok(false);
            }
            Some(Err(error)) => {
                self.lock().give_back(taken);
                self.settle_unreadable(items, error, started, path).await;
                return Ok(false);
            }
        };
        if started >= message.envelope.expires_at {
            let recipients = items.iter().flat_map(|item| item.recipients.iter().copied()).collect();
            Arc::clone(self).expire(id, recipients).await;
            let mut scheduler = self.lock();
            scheduler.landed(&items);
            scheduler.give_back(taken);
            items.iter().for_each(|item| scheduler.drop_item(item));
            return Ok(false);
        }
        let items = match self.refuse(&message, items) {
            Ok(items) if items.is_empty() => {
                self.lock().give_back(taken);
                return Ok(false);
            }
            Ok(items) => items,
            Err((items, failure)) => {
                self.lock().give_back(taken);
                self.settle(&message, items, Attempted::none(started, failure), Some(path));
                return Ok(false);
            }
        };
        let parts = self.parts.load_full();
        let together: usize = items.iter().map(|item| item.recipients.len()).sum();
        if together > 1 && parts.verp.names_each(&message.envelope.reverse_path) {
            // It was accepted when they could share a return path.
            self.with_actions(|scheduler, now, actions| {
                scheduler.give_back(taken);
                scheduler.take_apart(now, site, items, actions);
            });
            return Ok(false);
        }
        if let Err(failure) = self.sign(&message, started).await {
            self.lock().give_back(taken);
            self.settle(&message, items, Attempted::none(started, failure), Some(path));
            return Ok(false);
        }
        let gone = self.transact(path, (&parts, route), connection, (&message, items), (began, started), fresh).await;
        gone.map_or(Ok(true), Err)
    }

    /// Sends a message that is fit to go, and learns from what came of it. Returns why the connection is gone, if it is.
    async fn transact(
        self: &Arc<Queue>,
        path: PathId,
        (parts, route): (&Parts, &Route),
        connection: &mut Connection,
        (message, items): (&Arc<Message>, Vec<Item>),
        (began, started): (u64, Timestamp),
        fresh: bool,
    ) -> Option<Failure> {
        let envelope = &message.envelope;
        let places = items.iter().flat_map(|item: &Item| item.recipients.iter());
        let recipients: Vec<&Recipient> = places.map(|place| &envelope.recipients[*place as usize]).collect();
        let empty = bytes::Bytes::new();
        let returns = parts.verp.return_path(&envelope.reverse_path, message.id, &recipients);
        let job = Job {
            reverse_path: returns.as_ref().unwrap_or(&envelope.reverse_path),
            recipients: &recipients,
            signature: message.signature.get().unwrap_or(&empty),
            content: &message.content,
            eight_bit: envelope.eight_bit,
            smtputf8: envelope.needs_smtputf8(&recipients, &message.content),
            ret: envelope.ret,
            envid: envelope.envid.as_deref(),
        };
        let transaction = connection.deliver(&job).await;
        let failure = transaction.session_failure.clone();
        let answer = { paced::answer(&transaction.outcomes, failure.as_ref(), (&parts.profiles, route.provider)) };
        self.learn_pace(path, began, answer);
        self.note_recipients_max(path.site, &transaction.outcomes, failure.is_none());
        self.learn_of(&envelope.stream, &transaction.outcomes, route, path.source);
        self.heed(path.source, route, Some(&envelope.stream), &transaction.outcomes, failure.as_ref());
        let attempted = Attempted::of(started, route, connection.facts(), transaction, fresh);
        self.settle(message, items, attempted, Some(path));
        failure
    }

    /// Before a message may go out, it is signed if a key is configured: now, not when the session began.
    async fn sign(&self, message: &Message, now: Timestamp) -> Result<(), Failure> {
        let parts = self.parts.load_full();
        if !message.signature.initialized()
            && let Some((author, domain)) = parts.signer.signs(&message.content)
        {
            let signing = Signing { author: &author, domain, has: |domain: &Domain| parts.signer.has(domain) };
            let Marked { fields, also } = parts.marks.of(message.id, &message.envelope, &message.content, &signing);
            let added = Added { fields: fields.into(), also };
            let sign = || self.pool.sign_with(Arc::clone(&parts.signer), added, message.content.clone(), now);
            message.signature.get_or_try_init(sign).await.map_err(|error| {
                tracing::error!(message_id = %message.id, error = %error,
                    "message held back: its DKIM key cannot be used; mend the key and reload");
                Failure::ours(Blame::Message, EnhancedCode(4, 7, 0), format!("not signed, so not sent: {error}"))
            })?;
        }
        Ok(())
    }

    /// A receiver that took some recipients and left others without a verdict says how many it wants at a time.
    fn note_recipients_max(&self, site: SiteId, outcomes: &[Option<Outcome>], session_lives: bool) {
        let decided = outcomes.iter().filter(|outcome| outcome.is_some()).count();
        if session_lives && decided < outcomes.len() {
            self.lock().learn_recipients_max(site, decided);
        }
    }

    async fn settle_unreadable(
        self: &Arc<Queue>,
        items: Vec<Item>,
        error: SpoolError,
        started: Timestamp,
        path: PathId,
    ) {
        if let SpoolError::Unknown(_) = error {
            let mut scheduler = self.lock();
            scheduler.landed(&items);
            return items.iter().for_each(|item| scheduler.drop_item(item));
        }
        let id = items[0].message;
        tracing::error!(message_id = %id, error = %error, "message cannot be read from the spool, will try again");
        let failure = Failure::ours(Blame::Message, EnhancedCode(4, 3, 0), error.to_string());
        match self.spool.load_envelope(id).await {
            Ok(message) => self.settle(&message, items, Attempted::none(started, failure), Some(path)),
            Err(_) => self.settle_blind(items, &failure),
        }
    }

    /// Lets `deed` change the scheduler and carries out what it asks for.
    pub(super) fn with_actions<T>(
        self: &Arc<Queue>,
        deed: impl FnOnce(&mut super::Scheduler, u64, &mut Vec<Action>) -> T,
    ) -> T {
        let mut actions = Vec::new();
        let now = self.now();
        let done = {
            let mut scheduler = self.lock();
            let done = deed(&mut scheduler, now, &mut actions);
            if scheduler.must_rearm() {
                self.rearm.notify_one();
            }
            done
        };
        self.run(actions);
        done
    }
}

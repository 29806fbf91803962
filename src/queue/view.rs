//! What operators see of the queue, and do to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Queue;
use super::scheduler::Item;
use super::site::Health;
use super::steer::pause_in_words;
use crate::clock::Timestamp;
use crate::mail::{AddressHost, Class, Envelope, MessageId, Recipient};
use crate::spool::{Change, RecipientState, SpoolError};

/// One waiting message in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub message_id: MessageId,
    /// The envelope sender.
    pub sender: String,
    /// Recipients not at their end.
    pub recipients_waiting: usize,
    /// The first of them.
    pub recipient: String,
    /// Octets.
    pub size: usize,
    /// RFC 3339.
    pub accepted_at: String,
    /// RFC 3339; `None`: now.
    pub next_attempt: Option<String>,
    /// The class.
    pub class: Class,
    /// The last failure.
    pub reason: Option<String>,
    /// The order that holds it, or some of its recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// All there is to say of one waiting message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    /// The line of the list.
    #[serde(flatten)]
    pub listed: Listed,
    /// The tenant, if said.
    pub tenant: String,
    /// The campaign, if said.
    pub campaign: String,
    /// When it is given up.
    pub expires_at: String,
    /// Every recipient.
    pub recipients: Vec<RecipientView>,
}

/// One recipient of a waiting message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecipientView {
    /// The address.
    pub address: String,
    /// `waiting`, or its end.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is due, as its last attempt said; `None`: now, or never. What an operator hurries on may show it until all
    /// that waits of the message is awake.
    pub next_attempt: Option<String>,
    /// The last reply.
    pub reply: Option<String>,
}

/// One path with mail or sessions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteView {
    /// The hosts of the site.
    pub site: String,
    /// The pool of sources whose mail this is.
    pub pool: String,
    /// The source.
    pub source: String,
    /// Items of the pool's mail that could go now.
    pub ready: usize,
    /// Sessions open or opening.
    pub sessions: usize,
    /// `open`, `crowded` or `shut`.
    pub health: String,
    /// Why it is shut.
    pub reason: Option<String>,
    /// Seconds until it is probed.
    pub shut_for: Option<u64>,
    /// Messages a second that it was found to take; `None`: no limit was found.
    #[serde(default)]
    pub per_second: Option<f64>,
}

/// Recipients of a message that are looked at to see whether an order holds it.
const HELD_LOOKS: usize = 16;

impl Queue {
    /// The oldest `limit` waiting messages whose open recipients include one at `host`, if given.
    ///
    /// # Errors
    /// Never for a message that finishes meanwhile; only when the spool cannot be read.
    pub async fn list(&self, limit: usize, host: Option<&AddressHost>) -> Result<Vec<Listed>, SpoolError> {
        let mut ids: Vec<MessageId> = self.lock().messages().map(|(id, ..)| id).collect();
        ids.sort_unstable();
        let mut listed = Vec::new();
        for id in ids {
            if listed.len() >= limit {
                break;
            }
            match self.view(id).await {
                Ok(view) if host.is_none_or(|host| view.concerns(host)) => listed.push(view.listed),
                Ok(_) | Err(SpoolError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    /// One message.
    ///
    /// # Errors
    /// [`SpoolError::Unknown`] when it is finished or never was.
    pub async fn view(&self, id: MessageId) -> Result<MessageView, SpoolError> {
        let message = self.spool.load_envelope(id).await?;
        let states = self.spool.states(id).await?;
        let (open, awake, pause) = {
            let scheduler = self.lock();
            let open = scheduler.open_of(id);
            let hosts = open.iter().map(|place| message.envelope.recipients[*place as usize].address.host());
            let (stream, now) = (&message.envelope.stream, self.now());
            let pause = hosts.take(HELD_LOOKS).find_map(|host| scheduler.pause_of(now, stream, host));
            (open, scheduler.is_awake(id), pause)
        };
        let envelope = &message.envelope;
        let recipients = recipients(envelope, &open, &states, self.clock.timestamp(), awake);
        let waiting = || recipients.iter().filter(|r| r.state == "waiting");
        let listed = Listed {
            message_id: id,
            sender: envelope.reverse_path.to_string(),
            recipients_waiting: waiting().count(),
            recipient: waiting().next().map(|r| r.address.clone()).unwrap_or_default(),
            size: self.spool.content_len(id)?,
            accepted_at: envelope.accepted_at.to_string(),
            // None, now, is before all others.
            next_attempt: waiting().map(|r| r.next_attempt.clone()).min().flatten(),
            class: envelope.stream.class,
            reason: waiting().find_map(|r| r.reply.clone()),
            held: pause.as_ref().map(pause_in_words),
        };
        Ok(MessageView {
            listed,
            tenant: envelope.stream.tenant.to_string(),
            campaign: envelope.stream.campaign.to_string(),
            expires_at: envelope.expires_at.to_string(),
            recipients,
        })
    }

    /// Sites with ready mail or sessions, or shut: one line for each path.
    pub fn sites(&self) -> Vec<SiteView> {
        let now = self.now();
        let egress = Arc::clone(&self.parts.load().egress);
        let scheduler = self.lock();
        let told = scheduler.sites().flat_map(|site| {
            let egress = &egress;
            site.paths.iter().map(move |path| {
                let source = egress.source(path.source);
                let (health, reason, shut_for) = match &path.health {
                    _ if source.is_out() => ("out", source.trouble(), None),
                    Health::Shut { until, failure, .. } if now < *until => {
                        ("shut", Some(failure.reply.to_string()), Some((until - now) / 1000))
                    }
                    _ if path.control.sessions_max() < usize::MAX => ("crowded", None, None),
                    Health::Open { .. } | Health::Shut { .. } => ("open", None, None),
                };
                SiteView {
                    site: site.route.site.to_string(),
                    pool: egress.pool_name(site.pool).to_owned(),
                    source: source.name.to_string(),
                    ready: site.ready.len(),
                    sessions: path.sessions,
                    health: health.into(),
                    reason,
                    shut_for,
                    per_second: path.control.per_second(),
                }
            })
        });
        told.filter(|path| path.ready + path.sessions > 0 || path.health != "open").collect()
    }

    /// Makes sleeping recipients due now: those of one message, those at one host, or all. Mail that is held back
    /// until a time is let go by name only. Shut sites are probed again.
    /// Returns how many recipients were woken.
    pub fn retry(self: &Arc<Queue>, message: Option<MessageId>, host: Option<&AddressHost>) -> usize {
        let mut woken = 0;
        self.parts.load().client.forget_unreachable();
        self.with_actions(|scheduler, now, actions| {
            scheduler.reopen_sites();
            scheduler.forget_routes(now, actions);
            // What was never attempted is held back by its sender's wish.
            let concerns = |item: &Item| message.map_or(item.attempts > 0, |m| m == item.message);
            let select = |item: &Item, at: &AddressHost| concerns(item) && host.is_none_or(|h| h == at);
            woken = scheduler.hurry(now, select, actions);
        });
        woken
    }

    /// Recipients not at their end.
    pub fn open_recipients(&self) -> usize {
        self.lock().open_recipients()
    }

    /// Brings the gauges that are only worth their cost when somebody looks up to date.
    pub fn observe(&self) {
        self.observe_warmups();
        let now = self.clock.timestamp();
        let scheduler = self.lock();
        let mut oldest = [now; 3];
        for (_, stream, accepted_at) in scheduler.messages() {
            let class = stream.class as usize;
            oldest[class] = oldest[class].min(accepted_at);
        }
        for class in Class::ALL {
            let (open, ready) = (scheduler.counts.open[class as usize], scheduler.counts.ready[class as usize]);
            let gauge = |state| self.metrics.queue_recipients.with_label_values(&[class.as_str(), state]);
            gauge("ready").set(ready);
            gauge("waiting").set(open - ready);
            let age = now.since(oldest[class as usize]);
            self.metrics.queue_oldest.with_label_values(&[class.as_str()]).set(age.as_secs_f64());
        }
        self.metrics.paced_paths.reset();
        self.metrics.pace.reset();
        for site in scheduler.sites() {
            for rate in site.paths.iter().filter_map(|path| path.control.per_second()) {
                self.metrics.paced_paths.with_label_values(&[site.route.provider]).inc();
                self.metrics.pace.with_label_values(&[site.route.provider]).add(rate);
            }
        }
    }
}

/// Where each recipient stands, by what the spool has of it. `awake`: an operator may have asked for an attempt before the
/// time that the states name.
fn recipients(envelope: &Envelope, open: &[u32], states: &[Change], now: Timestamp, awake: bool) -> Vec<RecipientView> {
    let due = |time: Timestamp| (time > now && !awake).then(|| time.min(envelope.expires_at).to_string());
    let fresh = |recipient: &Recipient| RecipientView {
        address: recipient.address.to_string(),
        state: "ended".into(),
        attempts: 0,
        next_attempt: None,
        reply: None,
    };
    let mut views: Vec<RecipientView> = envelope.recipients.iter().map(fresh).collect();
    for place in open {
        let Some(view) = views.get_mut(*place as usize) else { continue };
        view.state = "waiting".into();
        view.next_attempt = due(envelope.not_before);
    }
    for change in states {
        let Some(view) = views.get_mut(change.recipient as usize) else { continue };
        match &change.state {
            RecipientState::Waiting { attempts, next_attempt, failure, .. } if *attempts >= view.attempts => {
                view.attempts = *attempts;
                view.reply = Some(failure.reply.to_string());
                if view.state == "waiting" {
                    view.next_attempt = due(*next_attempt);
                }
            }
            RecipientState::Waiting { .. } => {}
            RecipientState::Ended(end) => {
                view.state = end.as_str().into();
                view.next_attempt = None;
            }
        }
    }
    views
}

impl MessageView {
    fn concerns(&self, host: &AddressHost) -> bool {
        let at = format!("@{host}");
        self.recipients.iter().any(|r| r.state == "waiting" && r.address.ends_with(&at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Blame, EnhancedCode, Failure, Stream};
    use crate::spool::End;

    #[test]
    fn the_states_say_when_each_is_due() {
        let mut envelope = Envelope::unreadable(Stream::default(), Timestamp(0));
        let to = ["first@b.example", "held@b.example", "again@b.example", "gone@b.example", "late@b.example"];
        envelope.recipients = to.iter().map(|to| Recipient::new(to.parse().unwrap())).collect();
        (envelope.not_before, envelope.expires_at) = (Timestamp(50), Timestamp(9_000));
        let waiting = |recipient, attempts, next| Change {
            recipient,
            state: RecipientState::Waiting {
                attempts,
                next_attempt: Timestamp(next),
                failure: Failure::ours(Blame::Site, EnhancedCode(4, 4, 1), "no answer"),
                late: false,
            },
        };
        // Copied forward, an older state may stand behind a newer one.
        let states = [
            waiting(0, 1, 70),
            waiting(2, 2, 5_000),
            waiting(2, 1, 200),
            waiting(3, 1, 800),
            Change { recipient: 3, state: RecipientState::Ended(End::Delivered) },
            waiting(4, 1, 99_000),
            waiting(77, 1, 99_000),
        ];
        let told = |now, awake| {
            let views = recipients(&envelope, &[0, 1, 2, 4], &states, Timestamp(now), awake);
            let told = views.into_iter().map(|v| (v.state, v.attempts, v.next_attempt));
            told.collect::<Vec<_>>()
        };
        let at = |time| Some(Timestamp(time).to_string());
        let row = |state: &str, attempts, next| (state.to_owned(), attempts, next);
        let asleep = told(40, false);
        assert_eq!(asleep[0], row("waiting", 1, at(70)));
        assert_eq!(asleep[1], row("waiting", 0, at(50)), "held back");
        assert_eq!(asleep[2], row("waiting", 2, at(5_000)));
        assert_eq!(asleep[3], row("delivered", 1, None));
        assert_eq!(asleep[4], row("waiting", 1, at(9_000)), "no later than it expires");
        assert_eq!(told(100, false)[0], row("waiting", 1, None), "its time has come");
        assert_eq!(told(40, true)[2], row("waiting", 2, None), "somebody was in a hurry");
    }
}

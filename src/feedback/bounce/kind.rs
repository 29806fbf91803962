//! Weighs what a message is. A bounce is believed from its machine-readable part, or when several things agree.

use super::parts::Parts;
use super::{Kind, free};

/// The finding.
pub(super) enum Weighed {
    /// Read it as a bounce.
    Bounce,
    /// It is this.
    Other(Kind),
}

/// Who sends bounces, as the local part or the name of the author.
const SENDERS: [&str; 22] = [
    "mailer-daemon",
    "mailer_daemon",
    "maildaemon",
    "mail-daemon",
    "mailerdaemon",
    "mail delivery",
    "maildelivery",
    "postmaster",
    "post master",
    "post_master",
    "mdaemon",
    "mail system",
    "mail-system",
    "mail administrator",
    "system administrator",
    "systemadministrator",
    "delivery subsystem",
    "bounce",
    "mta",
    "daemon",
    "mail server",
    "no-reply-mail",
];

/// What subjects of bounces say.
const SUBJECTS: [&str; 63] = [
    "undeliver",
    "not delivered",
    "non delivery",
    "non-delivery",
    "nondelivery",
    "nondeliverable",
    "non-deliverable",
    "delivery failure",
    "delivery failed",
    "failed delivery",
    "delivery fail",
    "failure delivery",
    "delivery status",
    "delivery notif",
    "delivery problem",
    "delivery error",
    "delivery report",
    "delivery has failed",
    "delivery unsuccessful",
    "delivery delayed",
    "delivery subsystem",
    "delivery warning",
    "delay",
    "returned mail",
    "return mail",
    "returned to sender",
    "returned message",
    "returning message",
    "message returned",
    "mail returned",
    "failure notice",
    "failure notification",
    "failed mail",
    "failed message",
    "mail failure",
    "message failure",
    "mail error",
    "mail system error",
    "error sending",
    "could not be delivered",
    "couldn't be delivered",
    "couldn't deliver",
    "unable to deliver",
    "can't deliver",
    "cannot deliver",
    "unzustellbar",
    "nicht zugestellt",
    "zustellung",
    "non remis",
    "echec",
    "impossible de remettre",
    "no entregado",
    "no se pudo entregar",
    "devuelto",
    "nao entregue",
    "devolvid",
    "mancata consegna",
    "non recapitabil",
    "niedostarczon",
    "nie dostarczon",
    "mail could not",
    "warning: message",
    "user unknown",
];

/// What the words of bounces say.
const TEXTS: [&str; 60] = [
    "could not be delivered",
    "couldn't be delivered",
    "cannot be delivered",
    "can't be delivered",
    "could not deliver",
    "couldn't deliver",
    "cannot deliver",
    "unable to deliver",
    "wasn't able to deliver",
    "was not able to deliver",
    "not be delivered",
    "not been delivered",
    "was not delivered",
    "wasn't delivered",
    "were not delivered",
    "not deliver",
    "undeliverable",
    "undelivered",
    "undeliverd",
    "delivery failed",
    "delivery has failed",
    "delivery to the following",
    "delivery attempt",
    "delivery failure",
    "permanent fatal errors",
    "permanent error",
    "transient non-fatal",
    "fatal error",
    "did not reach",
    "not reach the following",
    "user unknown",
    "unknown user",
    "returned to you",
    "returned to sender",
    "returning it",
    "is being returned",
    "failed to deliver",
    "failure notice",
    "mailbox is full",
    "mailbox full",
    "over quota",
    "was rejected",
    "has been rejected",
    "address had",
    "addresses had",
    "following recipient",
    "following address",
    "could not be sent",
    "mail error",
    "message delivery",
    "unzustellbar",
    "nicht zugestellt",
    "konnte nicht",
    "n'a pas pu",
    "no se ha podido",
    "no pudo ser entregad",
    "nao pode ser entreg",
    "non e stato possibile",
    "rcpt to",
    "doesn't exist",
];

/// What auto-replies say in their subjects.
const ABSENCES: [&str; 31] = [
    "out of office",
    "out of the office",
    "out-of-office",
    "ooo:",
    "vacation",
    "auto reply",
    "auto-reply",
    "autoreply",
    "auto:",
    "automatic reply",
    "automatic response",
    "automated response",
    "automated reply",
    "auto response",
    "auto-response",
    "autoresponse",
    "autoresponder",
    "away from",
    "on leave",
    "on holiday",
    "abwesenheit",
    "automatische antwort",
    "reponse automatique",
    "absence du bureau",
    "respuesta automatica",
    "fuera de la oficina",
    "resposta automatica",
    "risposta automatica",
    "fuori ufficio",
    "autoreply:",
    "boxbe",
];

pub(super) fn weigh(parts: &Parts) -> Weighed {
    if parts.complaint {
        return Weighed::Other(Kind::Complaint);
    }
    if !super::status::recipients(&parts.status).is_empty() {
        return Weighed::Bounce;
    }
    if parts.disposition {
        return Weighed::Other(Kind::AutoReply);
    }
    let subject = parts.field("subject").to_lowercase();
    let from = parts.field("from").to_lowercase();
    let about_failure = SUBJECTS.iter().any(|one| subject.contains(one));
    let named = ["x-failed-recipients", "x-failed-recipient"].iter().any(|name| !parts.field(name).is_empty());
    let reply = parts.field("auto-submitted").to_lowercase();
    let answers = ["x-autoreply", "x-autorespond", "x-autoresponse", "x-auto-reply", "x-vacation"];
    let absent = ABSENCES.iter().any(|one| subject.contains(one))
        || answers.iter().any(|name| !parts.field(name).is_empty())
        || parts.field("precedence").eq_ignore_ascii_case("auto_reply");
    if !named && !about_failure && (absent || reply.starts_with("auto-replied") && !is_daemon(&from)) {
        return Weighed::Other(Kind::AutoReply);
    }
    let words = free::own_words(parts).to_lowercase();
    let says = TEXTS.iter().filter(|one| words.contains(**one)).count();
    let mut weight = 0;
    weight += if is_daemon(&from) { 2 } else { 0 };
    weight += if about_failure { 2 } else { 0 };
    weight += if named { 4 } else { 0 };
    weight += i32::from(parts.field("return-path") == "<>");
    weight += if parts.field("content-type").to_lowercase().contains("delivery-status") { 3 } else { 0 };
    weight += i32::from(!reply.is_empty() && reply != "no");
    weight += says.min(2) as i32;
    weight += i32::from(super::codes(&words).0.is_some());
    let daemon = is_daemon(&from);
    if daemon {
        weight += i32::from(!parts.original.is_empty());
        weight += i32::from(parts.human.lines().any(|line| line.starts_with('<') && line.trim_end().ends_with(">:")));
    }
    let answer = subject.starts_with("re:") || !parts.field("in-reply-to").is_empty();
    weight -= if answer && !daemon { 2 } else { 0 };
    weight -= if !parts.field("list-unsubscribe").is_empty() && !daemon { 1 } else { 0 };
    // Shops write of what could not be delivered, too.
    let enough = if daemon || named { 4 } else { 5 };
    if weight >= enough { Weighed::Bounce } else { Weighed::Other(Kind::Other) }
}

fn is_daemon(from: &str) -> bool {
    SENDERS.iter().any(|one| from.contains(one))
}

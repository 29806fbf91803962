//! Which messages a request takes back.

use super::query;
use crate::submission::options::WORD_MAX;
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::steer::Cancel;

/// Reads the parameters of `DELETE /v1/messages`.
pub(super) fn what_to_cancel(pairs: Vec<(String, String)>) -> Result<Cancel, Rejection> {
    let (mut campaign, mut key, mut tenant) = (None, None, None);
    let mut violations = Vec::new();
    for (name, value) in pairs {
        let slot = match name.as_str() {
            "campaign" => &mut campaign,
            "idempotency_key" => &mut key,
            "tenant" => &mut tenant,
            _ => {
                let why = "no such parameter in this version".into();
                violations.push(Violation { field: query::clean(&name).into(), why });
                continue;
            }
        };
        // No campaign or tenant is longer; that a key is not, its own reading says.
        if name != "idempotency_key" && value.len() > WORD_MAX {
            let why = format!("must have at most {WORD_MAX} octets").into();
            violations.push(Violation { field: query::clean(&name).into(), why });
        } else if value.is_empty() || slot.replace(value).is_some() {
            violations
                .push(Violation { field: query::clean(&name).into(), why: "must be given once, not empty".into() });
        }
    }
    if !violations.is_empty() {
        return Err(Rejection::violations(violations));
    }
    let tenant = tenant.map(Into::into);
    match (campaign, key) {
        (Some(campaign), None) => Ok(Cancel::Campaign { tenant, campaign: campaign.into() }),
        (None, Some(key)) => {
            let key = key.parse();
            let key = key.map_err(|error: crate::mail::IdempotencyKeyError| {
                Rejection::invalid("idempotency_key", error.to_string())
            })?;
            Ok(Cancel::Key { tenant, key })
        }
        _ => Err(Rejection::invalid("campaign", "give campaign or idempotency_key, one of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_cancelled_at_a_time() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            what_to_cancel(pairs).map_err(|rejection| rejection.reply.text.into_owned())
        };
        let (tenant, campaign) = (Some("t".into()), "c".into());
        assert_eq!(read(&[("campaign", "c"), ("tenant", "t")]), Ok(Cancel::Campaign { tenant, campaign }));
        let key = "k".parse().expect("a key");
        assert_eq!(read(&[("idempotency_key", "k")]), Ok(Cancel::Key { tenant: None, key }));
        for bad in [
            &[][..],
            &[("tenant", "t")],
            &[("campaign", "c"), ("idempotency_key", "k")],
            &[("campaign", "c"), ("campaign", "d")],
            &[("campaign", "")],
            &[("idempotency_key", "a b")],
            &[("campaign", "c"), ("x", "y")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}

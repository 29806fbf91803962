//! `posthaste explain`: where mail to an address would go now, at what pace, and why.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::{ConfigArgument, block_on, client};
use crate::mail::{Class, EnvelopeAddress};
use crate::queue::{Explanation, PathView};

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The recipient.
    address: EnvelopeAddress,
    /// As mail of this tenant.
    #[arg(long, default_value = "")]
    tenant: String,
    /// As mail of this campaign.
    #[arg(long, default_value = "")]
    campaign: String,
    /// As mail of this class.
    #[arg(long, default_value = "transactional", value_parser = super::orders::class)]
    class: Class,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

pub(super) fn run(arguments: &ExplainArguments) -> anyhow::Result<ExitCode> {
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let asked = [
        ("address", arguments.address.to_string()),
        ("tenant", arguments.tenant.clone()),
        ("class", arguments.class.as_str().to_owned()),
        ("campaign", arguments.campaign.clone()),
    ];
    let asked: Vec<String> = asked.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    let path = format!("/v1/explain?{}", asked.join("&"));
    let asked = client::ask(&config, &arguments.config, Method::GET, &path, None);
    let explained: Explanation = block_on(asked)??;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&explained)?),
        false => print!("{}", in_words(&explained)),
    }
    Ok(ExitCode::SUCCESS)
}

/// For a query: everything but letters and digits by its octets (RFC 3986 §2.1).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => escaped.push(octet.into()),
            _ => escaped.push_str(&format!("%{octet:02X}")),
        }
    }
    escaped
}

fn in_words(explained: &Explanation) -> String {
    let mut text = String::new();
    let mut say = |name: &str, value: &str| text.push_str(&format!("{name:<11}{value}\n"));
    say("address", &explained.address);
    let Explanation { tenant, class, campaign, .. } = explained;
    say("stream", &format!("tenant {tenant:?}, {class}, campaign {campaign:?}"));
    if let Some(route) = &explained.route {
        let fixed = if route.fixed { ", a fixed route" } else { "" };
        say("site", &format!("{}, provider {}{fixed}", route.site, route.provider));
        route.hosts.iter().for_each(|host| say("host", host));
        say("tls", &route.tls);
        say("route", &format!("asked again in {} s", route.valid_for));
    }
    explained.no_route.iter().for_each(|why| say("no route", why));
    say("pool", &format!("{}, {} ready for the site", explained.pool, explained.ready));
    for path in &explained.paths {
        say("source", &path_in_words(path));
        path.held_by.iter().for_each(|why| say("", &format!("  {why}")));
        for limit in &path.limits {
            let next = limit.next.as_ref().map_or_else(|| "when a connection ends".to_owned(), String::clone);
            let now = limit.left >= 1.0;
            let next = if now { String::new() } else { format!(", next {next}") };
            say("", &format!("  {}: {}; {} left{next}", limit.name, limit.allows, limit.left));
        }
        if let Some(warmup) = path.warmup.as_ref().filter(|warmup| !warmup.warm) {
            let sent = format!("{} of {} recipients today", warmup.sent, warmup.per_day);
            say("", &format!("  warm-up: day {} of {}, {sent}", warmup.day, warmup.days));
        }
    }
    explained.orders.iter().for_each(|order| say("order", order));
    if let Some(reputation) = explained.reputation {
        let (complaints, unknown) = (reputation.complaints_percent, reputation.unknown_users_percent);
        say("reputation", &format!("{complaints:.2} % complaints, {unknown:.1} % unknown users within a day"));
    }
    say("verdict", &explained.verdict);
    text
}

fn path_in_words(path: &PathView) -> String {
    let addresses = if path.addresses.is_empty() { "any address".into() } else { path.addresses.join(" ") };
    let when = path.not_before.as_ref().map_or_else(|| "now".into(), |at| format!("not before {at}"));
    let PathView { source, sessions, idle, health, .. } = path;
    let found = |what: Option<String>| what.map_or_else(String::new, |what| format!(", found: {what}"));
    let pace = found(path.per_second.map(|rate| format!("{rate:.2} messages a second")));
    let width = found(path.sessions_max.map(|max| format!("at most {max} sessions")));
    format!("{source} ({addresses}): {health}, {sessions} sessions, {idle} of them idle{width}{pace}, {when}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_hold_anything() {
        assert_eq!(escaped("\"a b\"+c@exämple.org&x=1"), "%22a%20b%22%2Bc%40ex%C3%A4mple.org%26x%3D1");
    }
}

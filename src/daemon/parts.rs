//! What one configuration makes: all that a reload replaces as a whole, and what only a start makes.

use std::sync::Arc;

use anyhow::Context;

use crate::config::Config;
use crate::delivery::Client;
use crate::events::Archive;
use crate::feedback::complaint::cfbl::Verifier;
use crate::feedback::marks::Marks;
use crate::feedback::token::Tokens;
use crate::feedback::verp::Verp;
use crate::mail::Domain;
use crate::queue::{Parts, RetryPolicy};
use crate::routing::{self, Egress, Router};
use crate::shaping::Rows;
use crate::shaping::provider::Profiles;
use crate::shaping::steering::SteeringPolicy;
use crate::signing::Signer;
use crate::telemetry::Metrics;

/// Everything the queue conducts, from one configuration; `before`: the sources and pools that are in force.
pub(super) fn build(
    config: &Config,
    hostname: &Domain,
    before: Option<&Egress>,
    tokens: &Arc<Tokens>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Parts> {
    let router = Router::new(&config.dns, &config.delivery, &config.route)?.with_hostname(hostname);
    let client = Client::new(&config.delivery, hostname, Arc::clone(metrics));
    let (signer, problems) = Signer::load(&config.dkim);
    for problem in problems {
        tracing::error!(problem = %problem, "mail from this domain is held back until the key can be used");
    }
    let profiles = profiles(config)?;
    Ok(Parts {
        router,
        client,
        signer: Arc::new(signer),
        retry: RetryPolicy::new(&config.retry),
        reports: config.reports.clone(),
        verp: Verp::new(&config.feedback, Arc::clone(tokens)),
        marks: Marks::new(&config.feedback, hostname, Arc::clone(tokens)),
        expire_after: config.retry.expire_after,
        delivery: config.delivery.clone(),
        egress: Arc::new(Egress::new(config, before)?),
        steering: SteeringPolicy::new(&config.brake, &config.warmup),
        rows: rows(config, &profiles),
        profiles: Arc::new(profiles),
        spool: config.spool.clone(),
        hostname: hostname.clone(),
        archive: Archive::new(config.data_dir.join("events"), config.events.keep),
    })
}

/// The operator's limits, and those of the providers.
fn rows(config: &Config, profiles: &Profiles) -> Rows {
    let mut rows = Rows::new(&config.limit);
    for profile in profiles.iter() {
        if let Some(limit) = profile.row() {
            rows.push(&format!("profile {}", profile.name), &limit);
        }
    }
    rows
}

/// Asks the same servers for keys as are asked for the way. Those stay as they are until a restart.
pub(super) fn verifier(config: &Config) -> anyhow::Result<Arc<Verifier>> {
    let (servers, options) = routing::resolver(&config.dns)?;
    let verifier = Verifier::new(servers, options, config.dns.timeout).map_err(anyhow::Error::msg);
    Ok(Arc::new(verifier.context("name servers")?))
}

/// What is known of receivers. What looks odd in it is logged.
fn profiles(config: &Config) -> anyhow::Result<Profiles> {
    let (profiles, warnings) = Profiles::load(&config.shaping).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("provider profiles: {}", lines.join("; "))
    })?;
    warnings.iter().for_each(|warning| tracing::warn!(problem = %warning, "provider profile"));
    Ok(profiles)
}

/// The secret behind what we write on the wire; made when the daemon starts for the first time.
pub(super) fn tokens(config: &Config) -> anyhow::Result<Arc<Tokens>> {
    let file = config.feedback.key_file(&config.data_dir);
    std::fs::create_dir_all(&config.data_dir).with_context(|| format!("data_dir: {}", config.data_dir.display()))?;
    Tokens::load_or_make(&file).map(Arc::new).with_context(|| format!("secret of tokens in {}", file.display()))
}

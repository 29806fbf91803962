//! What mail comes in by: all doors open together, or none.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::clock::Clock;
use crate::config::{Config, PageTemplate};
use crate::events::EventLog;
use crate::feedback::token::Tokens;
use crate::inbound::{self, Inbound};
use crate::mail::Domain;
use crate::submission::grpc::Grpc;
use crate::submission::http::Http;
use crate::submission::ways_back::WaysBack;
use crate::submission::{Gate, Submission, load_tls, web};
use crate::telemetry::Metrics;

/// What mail comes in by.
pub(super) struct Doors {
    pub(super) smtp: Submission,
    pub(super) grpc: Grpc,
    pub(super) http: Http,
    pub(super) inbound: Inbound,
    gate: Arc<Gate>,
    tokens: Arc<Tokens>,
}

/// What the doors show their clients; read before anything is changed.
pub(super) struct Shown {
    smtp: Option<Arc<ServerConfig>>,
    grpc: Option<Arc<ServerConfig>>,
    http: Option<Arc<ServerConfig>>,
    inbound: Option<Arc<ServerConfig>>,
    page: Option<Arc<ServerConfig>>,
    /// The page itself, if it is the operator's own.
    template: Option<PageTemplate>,
}

impl Doors {
    /// Opens all of them, or none.
    pub(super) async fn open(
        config: &Config,
        hostname: &Domain,
        gate: &Arc<Gate>,
        back: inbound::Parts,
        events: &Arc<EventLog>,
        metrics: &Arc<Metrics>,
        clock: Clock,
    ) -> anyhow::Result<Doors> {
        let Shown { smtp: tls, inbound: back_tls, template, .. } = Shown::load(config)?;
        let (smtp, hostname) = (config.submission.smtp.clone(), hostname.clone());
        let (door, access, counts) = (Arc::clone(gate), Arc::clone(gate.access()), Arc::clone(metrics));
        let smtp = Submission::start(smtp, hostname.clone(), tls, door, access, counts, clock)?;
        let (door, log, counts) = (Arc::clone(gate), Arc::clone(events), Arc::clone(metrics));
        let grpc = match Grpc::start(&config.submission.grpc, hostname.clone(), door, log, counts, clock) {
            Ok(grpc) => grpc,
            Err(error) => {
                smtp.close(Duration::from_secs(1)).await;
                return Err(error.into());
            }
        };
        let (door, counts, name) = (Arc::clone(gate), Arc::clone(metrics), hostname.clone());
        let http = match Http::start(&config.submission.http, name, door, counts, clock) {
            Ok(http) => http,
            Err(error) => {
                tokio::join!(smtp.close(Duration::from_secs(1)), grpc.close(Duration::from_secs(1)));
                return Err(error.into());
            }
        };
        let (gate, tokens) = (Arc::clone(gate), Arc::clone(&back.tokens));
        gate.set_ways_back(ways_back(config, &tokens));
        match Inbound::start(config, hostname, back_tls, template, back).await {
            Ok(inbound) => Ok(Doors { smtp, grpc, http, inbound, gate, tokens }),
            Err(error) => {
                let second = Duration::from_secs(1);
                tokio::join!(smtp.close(second), grpc.close(second), http.close(second));
                Err(error.into())
            }
        }
    }

    pub(super) fn reload(&self, config: &Config, shown: Shown) {
        self.smtp.reload(config.submission.smtp.clone(), shown.smtp);
        self.grpc.reload(&config.submission.grpc, shown.grpc);
        self.http.reload(&config.submission.http, shown.http);
        self.gate.set_ways_back(ways_back(config, &self.tokens));
        self.inbound.reload(config, shown.inbound, shown.template, shown.page);
    }

    /// No new mail; what is being received may come to its end within `grace`.
    pub(super) async fn close(&self, grace: Duration) {
        let Doors { smtp, grpc, http, inbound, .. } = self;
        tokio::join!(smtp.close(grace), grpc.close(grace), http.close(grace), inbound.close(grace));
    }
}

impl Shown {
    pub(super) fn load(config: &Config) -> anyhow::Result<Shown> {
        let smtp = &config.submission.smtp;
        let smtp = match (&smtp.tls_cert_file, &smtp.tls_key_file) {
            (Some(cert), Some(key)) => Some(load_tls(cert, key, smtp.tls_client_ca_file.as_deref())?),
            _ => None,
        };
        let inbound = match (&config.inbound.tls_cert_file, &config.inbound.tls_key_file) {
            (Some(cert), Some(key)) => Some(load_tls(cert, key, None)?),
            _ => None,
        };
        let (grpc, http) = (web::tls(&config.submission.grpc)?, web::tls(&config.submission.http)?);
        let page = web::tls(&config.unsubscribe.api())?;
        let template = config.unsubscribe.page().map_err(|problems| {
            anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        Ok(Shown { smtp, grpc, http, inbound, page, template })
    }
}

/// How recipients of new mail leave.
fn ways_back(config: &Config, tokens: &Arc<Tokens>) -> WaysBack {
    WaysBack::new(&config.unsubscribe, config.feedback.bounce_domain.as_ref(), Arc::clone(tokens))
}

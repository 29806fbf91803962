//! Every metric the daemon has, by name. Labels are bounded: never an address, never a domain.

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

/// The daemon's metrics. Built once in `daemon.rs` and handed to the parts by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Messages that got their `250`, by listener.
    pub messages_accepted: IntCounterVec,
    /// Messages and commands refused at the door, by listener and reason.
    pub submissions_refused: IntCounterVec,
    /// Open connections of clients with requests, by listener: grpc, http.
    pub submission_connections: IntGaugeVec,
    /// Clients that said who they are, by result (ok, wrong, expired, disabled) and mechanism (token, password, scram,
    /// certificate).
    pub authentications: IntCounterVec,
    /// Recipients that reached their end, by outcome: delivered, bounced, expired, cancelled.
    pub recipients: IntCounterVec,
    /// Recipients accepted.
    pub recipients_accepted: IntCounter,
    /// Attempts, by provider and outcome: delivered, deferred, bounced.
    pub attempts: IntCounterVec,
    /// Refusals by receivers, by provider, reason and the action its profile takes.
    pub refusals: IntCounterVec,
    /// Recipients waiting, by class and state: ready, waiting.
    pub queue_recipients: IntGaugeVec,
    /// Age of the oldest waiting message, by class, in seconds.
    pub queue_oldest: prometheus::GaugeVec,
    /// Accept to delivered, in seconds.
    pub delivery_latency: Histogram,
    /// Time spent in each stage of an attempt, in seconds.
    pub stage: HistogramVec,
    /// Changes of the pace of egress paths, by provider and cause: throttled, closed, refused, latency, accepted.
    pub pace_changes: IntCounterVec,
    /// Egress paths with a pace of their own, by provider.
    pub paced_paths: IntGaugeVec,
    /// The sum of their paces, in messages a second, by provider.
    pub pace: prometheus::GaugeVec,
    /// Open connections, by state: submission, connecting, busy, idle.
    pub connections: IntGaugeVec,
    /// 1 for what a source is at present, by source and state: out (nothing can be sent from it), impaired (an address is
    /// missing).
    pub sources: IntGaugeVec,
    /// Sessions that failed before or outside a transaction, by stage: source, connect, greeting, ehlo, tls, auth,
    /// session.
    pub session_failures: IntCounterVec,
    /// Transactions whose content was sent whole and whose final reply never came.
    pub unanswered_content: IntCounter,
    /// Seconds per sync of the log.
    pub spool_sync: Histogram,
    /// Octets of the log on disk.
    pub spool_bytes: IntGauge,
    /// Octets of the log that are live.
    pub spool_live_bytes: IntGauge,
    /// 1 while the spool refuses new mail.
    pub spool_readonly: IntGauge,
    /// Records found damaged, at start-up or on reading.
    pub spool_damaged: IntCounter,
    /// Facts in the ledger: tenants, their counts.
    pub ledger_facts: IntGauge,
    /// Idempotency keys that are known.
    pub ledger_keys: IntGauge,
    /// Octets of the ledger on disk, by log: receipts, facts.
    pub ledger_bytes: IntGaugeVec,
    /// Facts that the ledger's index does not have yet.
    pub ledger_behind: IntGauge,
    /// Times the ledger's index was made anew.
    pub ledger_rebuilt: IntCounter,
    /// 1 while the ledger's index answers from disk, 0 while it is out of use or held in memory.
    pub ledger_index_ok: IntGauge,
    /// 1 while a log of the ledger takes nothing, by log: receipts, facts.
    pub ledger_readonly: IntGaugeVec,
    /// Records and files found damaged since the start, by log: receipts, facts.
    pub ledger_damaged: IntGaugeVec,
    /// Entries of the suppression list, by scope: global, tenant, list.
    pub suppressions: IntGaugeVec,
    /// Times that mail was kept from an address, by reason: hard-bounce, complaint, unsubscribe, manual.
    pub suppressed: IntCounterVec,
    /// Seconds per message spent signing.
    pub signing: Histogram,
    /// Messages held back because their key could not be used.
    pub signing_failures: IntCounter,
    /// Events written.
    pub events: IntCounter,
    /// Events not yet on disk.
    pub events_lag: IntGauge,
    /// Orders in force: pauses, paces, exemptions.
    pub orders: IntGauge,
    /// Thresholds that the reputation brake saw crossed, by provider and what it wanted: warned, slowed, paused.
    pub brakes: IntCounterVec,
    /// The day of its plan a source is at, by source and provider; one more than it has when it is warm.
    pub warmup_day: IntGaugeVec,
    /// Recipients a source that is warmed up may still mail today, by source and provider.
    pub warmup_left: IntGaugeVec,
    /// Messages that came in at addresses of ours, by kind: bounce, auto-reply, mail, unknown, postmaster, complaint, report.
    pub inbound_messages: IntCounterVec,
    /// Recipients that left, by way.
    pub unsubscribes: IntCounterVec,
    /// Recipients that came back by mail after their mail had been taken, by provider and reason.
    pub bounces: IntCounterVec,
    /// Complaints, by provider and type.
    pub complaints: IntCounterVec,
    /// The share of a day's delivered mail that was complained of, by tenant, class and provider, as of the last complaint.
    pub complaint_share: prometheus::GaugeVec,
    /// Reports on our domains, by kind: dmarc, tls, unreadable.
    pub reports: IntCounterVec,
    /// Messages that DMARC reports tell of, by check (dkim, spf, dmarc) and result.
    pub dmarc_messages: IntCounterVec,
    /// The same, by what became of them: none, quarantine, reject.
    pub dmarc_dispositions: IntCounterVec,
    /// Sessions that TLS reports tell of, by policy and result: success, or the kind of failure.
    pub tls_report_sessions: IntCounterVec,
    /// 1 if the last reload of the configuration worked, else 0.
    pub config_ok: Gauge,
}

impl Metrics {
    /// Registers everything in a registry of its own.
    #[allow(clippy::new_without_default, reason = "a second one is a mistake that Default would invite")]
    pub fn new() -> Metrics {
        let r = Registry::new();
        let metrics = Metrics {
            messages_accepted: counters(&r, "messages_accepted_total", "messages acknowledged", &["listener"]),
            submissions_refused: counters(
                &r,
                "submissions_refused_total",
                "refused at the door",
                &["listener", "reason"],
            ),
            submission_connections: gauges(
                &r,
                "submission_connections",
                "open connections of clients with requests",
                &["listener"],
            ),
            authentications: counters(
                &r,
                "authentications_total",
                "clients that said who they are",
                &["result", "mechanism"],
            ),
            recipients: counters(&r, "recipients_total", "recipients that reached their end", &["outcome"]),
            recipients_accepted: counter(&r, "recipients_accepted_total", "recipients acknowledged"),
            refusals: counters(
                &r,
                "refusals_total",
                "refusals by receivers, for a recipient each",
                &["provider", "reason", "action"],
            ),
            attempts: counters(&r, "attempts_total", "delivery attempts per recipient", &["provider", "outcome"]),
            queue_recipients: gauges(&r, "queue_recipients", "recipients not at their end", &["class", "state"]),
            queue_oldest: register(
                &r,
                prometheus::GaugeVec::new(
                    opts("queue_oldest_seconds", "age of the oldest waiting message"),
                    &["class"],
                ),
            ),
            delivery_latency: histogram(&r, "delivery_latency_seconds", "accept to delivered", 0.001, 2.5, 18),
            stage: register(
                &r,
                HistogramVec::new(
                    HistogramOpts::from(opts("stage_seconds", "time in each stage of an attempt"))
                        .buckets(exponential_buckets(0.0005, 3.0, 14).expect("positive")),
                    &["stage"],
                ),
            ),
            pace_changes: counters(&r, "pace_changes_total", "changes of pace", &["provider", "cause"]),
            paced_paths: gauges(&r, "paced_paths", "egress paths with a pace of their own", &["provider"]),
            pace: register(
                &r,
                prometheus::GaugeVec::new(
                    opts("pace_messages_per_second", "the sum of the paces of those paths"),
                    &["provider"],
                ),
            ),
            connections: gauges(&r, "connections", "open connections", &["provider", "state"]),
            sources: gauges(&r, "sources", "1 for what a source is at present", &["source", "state"]),
            session_failures: counters(&r, "session_failures_total", "sessions that failed as a whole", &["stage"]),
            unanswered_content: counter(&r, "unanswered_content_total", "content sent, final reply never came"),
            spool_sync: histogram(&r, "spool_sync_seconds", "time of each sync of the log", 0.000_05, 2.0, 18),
            spool_bytes: gauge(&r, "spool_bytes", "size of the log on disk"),
            spool_live_bytes: gauge(&r, "spool_live_bytes", "live octets in the log"),
            spool_readonly: gauge(&r, "spool_readonly", "1 while the spool refuses new mail"),
            spool_damaged: counter(&r, "spool_damaged_total", "records found damaged"),
            ledger_facts: gauge(&r, "ledger_facts", "facts in the ledger"),
            ledger_keys: gauge(&r, "ledger_keys", "idempotency keys that are known"),
            ledger_bytes: gauges(&r, "ledger_bytes", "size of the ledger's logs on disk", &["log"]),
            ledger_behind: gauge(&r, "ledger_behind", "facts that the ledger's index does not have yet"),
            ledger_rebuilt: counter(&r, "ledger_rebuilt_total", "times the ledger's index was made anew"),
            ledger_index_ok: gauge(&r, "ledger_index_ok", "1 while the ledger's index answers from disk"),
            ledger_readonly: gauges(&r, "ledger_readonly", "1 while a log of the ledger takes nothing", &["log"]),
            ledger_damaged: gauges(&r, "ledger_damaged", "records of the ledger found damaged", &["log"]),
            suppressions: gauges(&r, "suppressions", "entries of the suppression list", &["scope"]),
            suppressed: counters(&r, "suppressed_total", "times that mail was kept from an address", &["reason"]),
            signing: histogram(&r, "signing_seconds", "time to sign a message", 0.000_02, 2.0, 14),
            signing_failures: counter(&r, "signing_failures_total", "messages held back for want of a usable key"),
            events: counter(&r, "events_total", "events written"),
            events_lag: register(
                &r,
                IntGaugeVec::new(opts("events_lag", "events not yet written, by consumer"), &["consumer"]),
            )
            .with_label_values(&["file"]),
            orders: gauge(&r, "orders", "orders in force"),
            brakes: counters(&r, "brakes_total", "thresholds of reputation crossed", &["provider", "what"]),
            warmup_day: gauges(&r, "warmup_day", "day of the plan a source is at", &["source", "provider"]),
            warmup_left: gauges(&r, "warmup_left", "recipients a source may still mail today", &["source", "provider"]),
            unsubscribes: counters(&r, "unsubscribes_total", "recipients that left a list or stream", &["way"]),
            inbound_messages: counters(&r, "inbound_messages_total", "messages taken at addresses of ours", &["kind"]),
            bounces: counters(&r, "bounces_total", "recipients that came back by mail", &["provider", "reason"]),
            complaints: counters(&r, "complaints_total", "complaints of recipients", &["provider", "type"]),
            complaint_share: register(
                &r,
                prometheus::GaugeVec::new(
                    opts("complaint_share", "share of a day's delivered mail that was complained of"),
                    &["tenant", "class", "provider"],
                ),
            ),
            reports: counters(&r, "reports_total", "reports on our domains", &["kind"]),
            dmarc_messages: counters(&r, "dmarc_messages_total", "messages in DMARC reports", &["check", "result"]),
            dmarc_dispositions: counters(
                &r,
                "dmarc_dispositions_total",
                "messages in DMARC reports by what became of them",
                &["disposition"],
            ),
            tls_report_sessions: counters(
                &r,
                "tls_report_sessions_total",
                "sessions in TLS reports",
                &["policy", "result"],
            ),
            config_ok: register(&r, Gauge::with_opts(opts("config_last_reload_ok", "1 if the last reload worked"))),
            registry: r,
        };
        let process = prometheus::process_collector::ProcessCollector::for_self();
        metrics.registry.register(Box::new(process)).expect("registered once");
        metrics
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("posthaste_{name}"), help)
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names and labels are constants");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::with_opts(opts(name, help)))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, start: f64, factor: f64, count: usize) -> Histogram {
    let buckets = exponential_buckets(start, factor, count).expect("positive");
    register(registry, Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(buckets)))
}

//! Every metric the daemon has, by name. Labels are bounded: never an address, never a domain.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

/// A row a metric: its field, its type, and the function below that makes it of its name, its help and its labels.
macro_rules! metrics {
    ($($(#[$doc:meta])+ $field:ident: $type:ty = $make:ident($name:expr $(, $argument:expr)+);)+) => {
        /// The daemon's metrics. Built once in `daemon.rs` and handed to the parts by `Arc`.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[$doc])+ pub $field: $type,)+
        }

        impl Metrics {
            /// Registers everything in a registry of its own.
            #[allow(clippy::new_without_default, reason = "a second one is a mistake that Default would invite")]
            pub fn new() -> Metrics {
                let registry = Registry::new();
                let process = prometheus::process_collector::ProcessCollector::for_self();
                registry.register(Box::new(process)).expect("registered once");
                Metrics { $($field: $make(&registry, $name $(, $argument)+),)+ registry }
            }
        }

        /// What they are called, without the prefix.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),+];
    };
}

metrics! {
    /// Messages that got their `250`, by listener.
    messages_accepted: IntCounterVec = counters("messages_accepted_total", "messages acknowledged", &["listener"]);
    /// Messages and commands refused at the door, by listener and reason.
    submissions_refused: IntCounterVec =
        counters("submissions_refused_total", "refused at the door", &["listener", "reason"]);
    /// Open connections of clients with requests, by listener: grpc, http.
    submission_connections: IntGaugeVec =
        gauges("submission_connections", "open connections of clients with requests", &["listener"]);
    /// Clients that said who they are, by result (ok, wrong, expired, disabled) and mechanism (token, password, scram,
    /// certificate).
    authentications: IntCounterVec =
        counters("authentications_total", "clients that said who they are", &["result", "mechanism"]);
    /// Recipients that reached their end, by outcome: delivered, bounced, expired, suppressed, cancelled.
    recipients: IntCounterVec = counters("recipients_total", "recipients that reached their end", &["outcome"]);
    /// Recipients accepted.
    recipients_accepted: IntCounter = counter("recipients_accepted_total", "recipients acknowledged");
    /// Attempts, by provider and outcome: delivered, deferred, bounced.
    attempts: IntCounterVec = counters("attempts_total", "delivery attempts per recipient", &["provider", "outcome"]);
    /// Refusals by receivers, by provider, reason and the action its profile takes.
    refusals: IntCounterVec =
        counters("refusals_total", "refusals by receivers, for a recipient each", &["provider", "reason", "action"]);
    /// Recipients waiting, by class and state: ready, waiting.
    queue_recipients: IntGaugeVec = gauges("queue_recipients", "recipients not at their end", &["class", "state"]);
    /// Age of the oldest waiting message, by class, in seconds.
    queue_oldest: GaugeVec = levels("queue_oldest_seconds", "age of the oldest waiting message", &["class"]);
    /// Accept to delivered, in seconds.
    delivery_latency: Histogram = histogram("delivery_latency_seconds", "accept to delivered", (0.001, 2.5, 18));
    /// Time spent in each stage of an attempt, in seconds.
    stage: HistogramVec =
        histograms("stage_seconds", "time in each stage of an attempt", &["stage"], (0.0005, 3.0, 14));
    /// Changes of the pace of egress paths, by provider and cause: throttled, closed, refused, latency, accepted.
    pace_changes: IntCounterVec = counters("pace_changes_total", "changes of pace", &["provider", "cause"]);
    /// Egress paths with a pace of their own, by provider.
    paced_paths: IntGaugeVec = gauges("paced_paths", "egress paths with a pace of their own", &["provider"]);
    /// The sum of their paces, in messages a second, by provider.
    pace: GaugeVec = levels("pace_messages_per_second", "the sum of the paces of those paths", &["provider"]);
    /// Open connections: ours to receivers, by provider (connecting, open), and those that come to us (submission, inbound).
    connections: IntGaugeVec = gauges("connections", "open connections", &["provider", "state"]);
    /// 1 for what a source is at present, by source and state: out (nothing can be sent from it), impaired (an address is
    /// missing).
    sources: IntGaugeVec = gauges("sources", "1 for what a source is at present", &["source", "state"]);
    /// Sessions that failed before or outside a transaction, by stage: source, connect, greeting, ehlo, tls, auth,
    /// session.
    session_failures: IntCounterVec =
        counters("session_failures_total", "sessions that failed as a whole", &["stage"]);
    /// Transactions whose content was sent whole and whose final reply never came.
    unanswered_content: IntCounter = counter("unanswered_content_total", "content sent, final reply never came");
    /// Seconds per sync of the log.
    spool_sync: Histogram = histogram("spool_sync_seconds", "time of each sync of the log", (0.000_05, 2.0, 18));
    /// Octets of the log on disk.
    spool_bytes: IntGauge = gauge("spool_bytes", "size of the log on disk");
    /// Octets of the log that are live.
    spool_live_bytes: IntGauge = gauge("spool_live_bytes", "live octets in the log");
    /// 1 while the spool refuses new mail.
    spool_readonly: IntGauge = gauge("spool_readonly", "1 while the spool refuses new mail");
    /// Records found damaged, at start-up or on reading.
    spool_damaged: IntCounter = counter("spool_damaged_total", "records found damaged");
    /// Facts in the ledger: tenants, their counts.
    ledger_facts: IntGauge = gauge("ledger_facts", "facts in the ledger");
    /// Idempotency keys that are known.
    ledger_keys: IntGauge = gauge("ledger_keys", "idempotency keys that are known");
    /// Octets of the ledger on disk, by log: receipts, facts.
    ledger_bytes: IntGaugeVec = gauges("ledger_bytes", "size of the ledger's logs on disk", &["log"]);
    /// Facts that the ledger's index does not have yet.
    ledger_behind: IntGauge = gauge("ledger_behind", "facts that the ledger's index does not have yet");
    /// Times the ledger's index was made anew.
    ledger_rebuilt: IntCounter = counter("ledger_rebuilt_total", "times the ledger's index was made anew");
    /// 1 while the ledger's index answers from disk, 0 while it is out of use or held in memory.
    ledger_index_ok: IntGauge = gauge("ledger_index_ok", "1 while the ledger's index answers from disk");
    /// 1 while a log of the ledger takes nothing, by log: receipts, facts.
    ledger_readonly: IntGaugeVec = gauges("ledger_readonly", "1 while a log of the ledger takes nothing", &["log"]);
    /// Records and files found damaged since the start, by log: receipts, facts.
    ledger_damaged: IntGaugeVec = gauges("ledger_damaged", "records of the ledger found damaged", &["log"]);
    /// Entries of the suppression list, by scope: global, tenant, list.
    suppressions: IntGaugeVec = gauges("suppressions", "entries of the suppression list", &["scope"]);
    /// Times that mail was kept from an address, by reason: hard-bounce, complaint, unsubscribe, manual.
    suppressed: IntCounterVec = counters("suppressed_total", "times that mail was kept from an address", &["reason"]);
    /// Seconds per message spent signing.
    signing: Histogram = histogram("signing_seconds", "time to sign a message", (0.000_02, 2.0, 14));
    /// Attempts held back because their key could not be used.
    signing_failures: IntCounter = counter("signing_failures_total", "attempts held back for want of a usable key");
    /// Events written.
    events: IntCounter = counter("events_total", "events written");
    /// Events not yet on disk.
    events_lag: IntGauge = gauge_of("events_lag", "events not yet written, by consumer", ("consumer", "file"));
    /// Orders in force: pauses, paces, exemptions.
    orders: IntGauge = gauge("orders", "orders in force");
    /// Thresholds that the reputation brake saw crossed, by provider and what it wanted: warned, slowed, paused.
    brakes: IntCounterVec = counters("brakes_total", "thresholds of reputation crossed", &["provider", "what"]);
    /// The day of its plan a source is at, by source and provider; one more than it has when it is warm.
    warmup_day: IntGaugeVec = gauges("warmup_day", "day of the plan a source is at", &["source", "provider"]);
    /// Recipients a source that is warmed up may still mail today, by source and provider.
    warmup_left: IntGaugeVec =
        gauges("warmup_left", "recipients a source may still mail today", &["source", "provider"]);
    /// Messages that came in at addresses of ours, by kind: bounce, auto-reply, mail, unknown, postmaster, complaint, report.
    inbound_messages: IntCounterVec =
        counters("inbound_messages_total", "messages taken at addresses of ours", &["kind"]);
    /// Recipients that left, by way: one-click, page, mailto.
    unsubscribes: IntCounterVec = counters("unsubscribes_total", "recipients that left a list or stream", &["way"]);
    /// Recipients that came back by mail after their mail had been taken, by provider and reason.
    bounces: IntCounterVec = counters("bounces_total", "recipients that came back by mail", &["provider", "reason"]);
    /// Complaints, by provider and type.
    complaints: IntCounterVec = counters("complaints_total", "complaints of recipients", &["provider", "type"]);
    /// The share of a day's delivered mail that was complained of, by tenant, class and provider, as of the last complaint.
    complaint_share: GaugeVec =
        levels("complaint_share", "share of a day's delivered mail that was complained of", &["tenant", "class", "provider"]);
    /// Reports on our domains, by kind: dmarc, tls, unreadable.
    reports: IntCounterVec = counters("reports_total", "reports on our domains", &["kind"]);
    /// Messages that DMARC reports tell of, by check (dkim, spf, dmarc) and result.
    dmarc_messages: IntCounterVec =
        counters("dmarc_messages_total", "messages in DMARC reports", &["check", "result"]);
    /// The same, by what became of them: none, quarantine, reject.
    dmarc_dispositions: IntCounterVec =
        counters("dmarc_dispositions_total", "messages in DMARC reports by what became of them", &["disposition"]);
    /// Sessions that TLS reports tell of, by policy and result: success, or the kind of failure.
    tls_report_sessions: IntCounterVec =
        counters("tls_report_sessions_total", "sessions in TLS reports", &["policy", "result"]);
    /// 1 if the last reload of the configuration worked, else 0.
    config_ok: Gauge = level("config_last_reload_ok", "1 if the last reload worked");
}

impl Metrics {
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

fn gauge_of(registry: &Registry, name: &str, help: &str, (label, value): (&str, &str)) -> IntGauge {
    gauges(registry, name, help, &[label]).with_label_values(&[value])
}

fn level(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::with_opts(opts(name, help)))
}

fn levels(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(opts(name, help), labels))
}

/// `buckets`: the first, the factor between two, how many.
type Buckets = (f64, f64, usize);

fn histogram(registry: &Registry, name: &str, help: &str, buckets: Buckets) -> Histogram {
    register(registry, Histogram::with_opts(histogram_opts(name, help, buckets)))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: Buckets) -> HistogramVec {
    register(registry, HistogramVec::new(histogram_opts(name, help, buckets), labels))
}

fn histogram_opts(name: &str, help: &str, (first, factor, count): Buckets) -> HistogramOpts {
    let buckets = exponential_buckets(first, factor, count).expect("positive");
    HistogramOpts::from(opts(name, help)).buckets(buckets)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::NAMES;

    #[test]
    fn the_manual_has_a_row_for_each() {
        let told: BTreeSet<&str> = include_str!("../../docs/metrics.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `posthaste_")?.split(['{', '`']).next())
            .filter(|name| !name.contains(' '))
            .collect();
        let known: BTreeSet<&str> = NAMES.iter().copied().collect();
        assert_eq!(told, known, "left: in docs/metrics.md; right: what there is");
    }
}

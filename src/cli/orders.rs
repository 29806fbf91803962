//! `posthaste queue suspend`, `pace`, `exempt`, `resume` and `orders`: what is held back, by whom, and let it go.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::{BAD_USAGE, ConfigArgument, client};
use crate::admin::{OrderRequest, OrderView, ResumeRequest};
use crate::config::{Config, Scope};
use crate::mail::{Class, Domain};
use crate::shaping::orders::OrderId;

/// Which mail.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct ScopeArguments {
    /// Mail of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Mail of this campaign.
    #[arg(long)]
    campaign: Option<String>,
    /// Mail of this class: transactional, bulk or system.
    #[arg(long, value_parser = class)]
    class: Option<Class>,
    /// Mail to this domain.
    #[arg(long)]
    domain: Option<Domain>,
    /// Mail to this site, as `queue list --json` names it.
    #[arg(long)]
    site: Option<String>,
    /// Mail to this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Mail that leaves by this source.
    #[arg(long)]
    source: Option<String>,
    /// Mail that leaves by this pool.
    #[arg(long)]
    pool: Option<String>,
}

/// How an order is given.
#[derive(Debug, Clone, Args)]
pub(super) struct OrderArguments {
    #[command(flatten)]
    scope: ScopeArguments,
    /// All mail.
    #[arg(long)]
    all: bool,
    /// How long, as `2h`; else until `queue resume`.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasts: Option<Duration>,
    /// Why, in a sentence.
    #[arg(long, default_value = "")]
    reason: String,
    /// Who says so; else the user's name.
    #[arg(long)]
    by: Option<String>,
}

pub(super) fn class(name: &str) -> Result<Class, String> {
    Class::parse(name).ok_or_else(|| "must be transactional, bulk or system".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

impl ScopeArguments {
    pub(super) fn is_empty(&self) -> bool {
        *self == ScopeArguments::default()
    }

    pub(super) fn scope(self) -> Scope {
        let ScopeArguments { tenant, campaign, class, domain, site, provider, source, pool } = self;
        let domain = domain.map(|domain| domain.to_string());
        Scope { provider, site, domain, source, pool, tenant, class, campaign }
    }
}

/// Gives an order; `deed` as the surface names it.
pub(super) async fn give(
    config: &Config,
    arguments: &ConfigArgument,
    deed: &str,
    per_second: Option<f64>,
    order: OrderArguments,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let OrderArguments { scope, all, lasts, reason, by } = order;
    if scope.is_empty() != all {
        eprintln!("posthaste queue: say which mail (--tenant, --campaign, --domain, …), or --all");
        return Ok(ExitCode::from(BAD_USAGE));
    }
    let by = by.unwrap_or_else(user);
    let request = OrderRequest { deed: deed.into(), per_second, scope: scope.scope(), lasts, reason, by };
    let body = serde_json::to_string(&request)?;
    let given: OrderView = client::ask(config, arguments, Method::POST, "/v1/orders", Some(body)).await?;
    match json {
        true => println!("{}", serde_json::to_string(&given)?),
        false => println!("{}", in_words(&given)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lifts orders.
pub(super) async fn resume(
    config: &Config,
    arguments: &ConfigArgument,
    id: Option<u64>,
    scope: ScopeArguments,
    all: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if usize::from(id.is_some()) + usize::from(!scope.is_empty()) + usize::from(all) != 1 {
        eprintln!("posthaste queue resume: say which: an order's number, the mail it is about, or --all");
        return Ok(ExitCode::from(BAD_USAGE));
    }
    let scope = (!scope.is_empty()).then(|| scope.scope());
    let request = ResumeRequest { id: id.map(OrderId), scope, all, by: user() };
    let body = serde_json::to_string(&request)?;
    let lifted: Vec<OrderView> = client::ask(config, arguments, Method::POST, "/v1/orders/resume", Some(body)).await?;
    if json {
        println!("{}", serde_json::to_string(&lifted)?);
        return Ok(ExitCode::SUCCESS);
    }
    lifted.iter().for_each(|order| println!("lifted: {}", in_words(order)));
    if lifted.is_empty() {
        println!("no order was in force");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the orders in force.
pub(super) async fn list(config: &Config, arguments: &ConfigArgument, json: bool) -> anyhow::Result<ExitCode> {
    let orders: Vec<OrderView> = client::ask(config, arguments, Method::GET, "/v1/orders", None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&orders)?);
        return Ok(ExitCode::SUCCESS);
    }
    orders.iter().for_each(|order| println!("{}", in_words(order)));
    println!("{} orders", orders.len());
    Ok(ExitCode::SUCCESS)
}

/// `order 3: pause tenant shop, campaign spring, until 2026-12-01T00:00:00.000Z, by ann: bad list`.
pub(super) fn in_words(order: &OrderView) -> String {
    let scope = &order.scope;
    let named = [
        ("tenant", scope.tenant.as_deref()),
        ("campaign", scope.campaign.as_deref()),
        ("class", scope.class.map(Class::as_str)),
        ("domain", scope.domain.as_deref()),
        ("site", scope.site.as_deref()),
        ("provider", scope.provider.as_deref()),
        ("source", scope.source.as_deref()),
        ("pool", scope.pool.as_deref()),
    ];
    let named = named.iter().filter_map(|(name, value)| Some(format!("{name} {:?}", (*value)?)));
    let mut about = named.collect::<Vec<_>>().join(", ");
    if about.is_empty() {
        about = "all mail".into();
    }
    let deed = match order.per_second {
        Some(per_second) => format!("{} at {per_second} recipients a second:", order.deed),
        None => order.deed.clone(),
    };
    let until = order.until.as_ref().map_or_else(String::new, |until| format!(", until {until}"));
    let reason = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
    format!("order {}: {deed} {about}{until}, by {}{reason}", order.id.0, order.by)
}

/// Who sits at the terminal, for the record.
fn user() -> String {
    let named = ["SUDO_USER", "USER"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| "operator".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_can_be_read() {
        let scope = Scope { tenant: Some("shop".into()), class: Some(Class::Bulk), ..Scope::default() };
        let mut order = OrderView {
            id: OrderId(3),
            deed: "pause".into(),
            per_second: None,
            scope,
            reason: String::new(),
            by: "ann".into(),
            since: String::new(),
            until: None,
        };
        assert_eq!(in_words(&order), "order 3: pause tenant \"shop\", class \"bulk\", by ann");
        (order.deed, order.per_second, order.scope) = ("pace".into(), Some(0.5), Scope::default());
        (order.until, order.reason) = (Some("2026-12-01T00:00:00.000Z".into()), "slowly".into());
        let expected =
            "order 3: pace at 0.5 recipients a second: all mail, until 2026-12-01T00:00:00.000Z, by ann: slowly";
        assert_eq!(in_words(&order), expected);
    }
}

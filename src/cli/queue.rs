//! `posthaste queue`: what waits, why, and make it go now.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use super::orders::{self, OrderArguments, ScopeArguments};
use super::{BAD_USAGE, ConfigArgument, block_on, client};
use crate::admin::{CancelRequest, OrderView, RetryAnswer, RetryRequest};
use crate::config::Config;
use crate::mail::{Domain, MessageId};
use crate::queue::{Cancelled, Listed, MessageView, SiteView};

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Waiting messages, oldest first, and sites that are shut.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only those with a recipient waiting at this domain.
        #[arg(long)]
        domain: Option<Domain>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// One message with all its recipients.
    Show {
        /// Its id, as in the receipt and the log.
        id: MessageId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Try again now: one message, all mail for a domain, or everything.
    Retry {
        /// A message.
        id: Option<MessageId>,
        /// All recipients at this domain.
        #[arg(long, conflicts_with = "id")]
        domain: Option<Domain>,
        /// Everything that waits.
        #[arg(long, conflicts_with_all = ["id", "domain"])]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Take back what is not being sent right now: one message, or all that waits of a campaign, a tenant, for a domain.
    Cancel {
        /// A message.
        id: Option<MessageId>,
        #[command(flatten)]
        scope: ScopeArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Hold mail back until `resume`, or for a time.
    Suspend {
        #[command(flatten)]
        order: OrderArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Let no more than so many recipients a second go, until `resume` or for a time. Other limits stay in force.
    Pace {
        /// Recipients a second.
        #[arg(long)]
        per_second: f64,
        #[command(flatten)]
        order: OrderArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Keep the reputation brake from slowing or stopping this mail.
    Exempt {
        #[command(flatten)]
        order: OrderArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Lift orders: by number, or all about the mail that was named.
    Resume {
        /// The order's number.
        id: Option<u64>,
        #[command(flatten)]
        scope: ScopeArguments,
        /// All orders.
        #[arg(long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Orders in force: what is suspended, paced, exempt.
    Orders {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
}

pub(super) fn run(command: QueueCommand) -> anyhow::Result<ExitCode> {
    let arguments = match &command {
        QueueCommand::List { config, .. }
        | QueueCommand::Show { config, .. }
        | QueueCommand::Retry { config, .. }
        | QueueCommand::Cancel { config, .. }
        | QueueCommand::Suspend { config, .. }
        | QueueCommand::Pace { config, .. }
        | QueueCommand::Exempt { config, .. }
        | QueueCommand::Resume { config, .. }
        | QueueCommand::Orders { config, .. } => config.clone(),
    };
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    block_on(async {
        match command {
            QueueCommand::List { limit, domain, json, .. } => list(&config, &arguments, limit, domain, json).await,
            QueueCommand::Show { id, json, .. } => show(&config, &arguments, id, json).await,
            QueueCommand::Retry { id: None, domain: None, all: false, .. } => {
                eprintln!("posthaste queue retry: say what: a message id, --domain DOMAIN or --all");
                Ok(ExitCode::from(BAD_USAGE))
            }
            QueueCommand::Cancel { id, scope, .. } if id.is_some() != scope.is_empty() => {
                eprintln!("posthaste queue cancel: say what: a message id, or --campaign, --tenant, --domain, …");
                Ok(ExitCode::from(BAD_USAGE))
            }
            QueueCommand::Cancel { id, scope, json, .. } => {
                let scope = id.is_none().then(|| scope.scope());
                let request = CancelRequest { message_id: id, scope, ..CancelRequest::default() };
                cancel(&config, &arguments, &request, json).await
            }
            QueueCommand::Suspend { order, json, .. } => {
                orders::give(&config, &arguments, "pause", None, order, json).await
            }
            QueueCommand::Pace { per_second, order, json, .. } => {
                orders::give(&config, &arguments, "pace", Some(per_second), order, json).await
            }
            QueueCommand::Exempt { order, json, .. } => {
                orders::give(&config, &arguments, "exempt", None, order, json).await
            }
            QueueCommand::Resume { id, scope, all, json, .. } => {
                orders::resume(&config, &arguments, id, scope, all, json).await
            }
            QueueCommand::Orders { json, .. } => orders::list(&config, &arguments, json).await,
            QueueCommand::Retry { id, domain, json, .. } => retry(&config, &arguments, id, domain, json).await,
        }
    })?
}

/// Prints what waits, as `mailq` does.
pub(super) fn print(config: &Config, arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    block_on(list(config, arguments, 1000, None, false))?
}

/// Tries again whatever waits, as `sendmail -q` does.
pub(super) fn retry_all(config: &Config, arguments: &ConfigArgument) -> anyhow::Result<ExitCode> {
    block_on(retry(config, arguments, None, None, false))?
}

async fn list(
    config: &Config,
    arguments: &ConfigArgument,
    limit: usize,
    domain: Option<Domain>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let domain = domain.map_or_else(String::new, |domain| format!("&domain={domain}"));
    let path = format!("/v1/queue?limit={limit}{domain}");
    let messages: Vec<Listed> = client::ask(config, arguments, Method::GET, &path, None).await?;
    let sites: Vec<SiteView> = client::ask(config, arguments, Method::GET, "/v1/sites", None).await?;
    let orders: Vec<OrderView> = client::ask(config, arguments, Method::GET, "/v1/orders", None).await?;
    if json {
        let all = serde_json::json!({ "messages": messages, "sites": sites, "orders": orders });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    for message in &messages {
        let Listed { message_id, accepted_at, size, sender, recipient, recipients_waiting, .. } = message;
        let others = recipients_waiting.saturating_sub(1);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        println!("{message_id}  {accepted_at}  {size:>8}  <{sender}> -> <{recipient}>{others}");
        let due = message.next_attempt.as_deref().unwrap_or("now");
        println!("               due {due}{}", message.reason.as_ref().map_or(String::new(), |r| format!(": {r}")));
        message.held.iter().for_each(|held| println!("               {held}"));
    }
    orders.iter().for_each(|order| println!("{}", orders::in_words(order)));
    for site in sites.iter().filter(|site| site.health == "shut") {
        let (shut_for, reason) = (site.shut_for.unwrap_or(0), site.reason.as_deref().unwrap_or("?"));
        println!("site {} is shut for {shut_for} s: {reason}", site.site);
    }
    println!("{} messages", messages.len());
    Ok(ExitCode::SUCCESS)
}

async fn show(config: &Config, arguments: &ConfigArgument, id: MessageId, json: bool) -> anyhow::Result<ExitCode> {
    let view: MessageView = client::ask(config, arguments, Method::GET, &format!("/v1/queue/{id}"), None).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&view)?);
        return Ok(ExitCode::SUCCESS);
    }
    let listed = &view.listed;
    println!("message   {id}");
    println!("sender    <{}>", listed.sender);
    println!("accepted  {}", listed.accepted_at);
    println!("expires   {}", view.expires_at);
    println!("size      {}", listed.size);
    println!("stream    tenant {:?}, {}, campaign {:?}", view.tenant, listed.class.as_str(), view.campaign);
    listed.held.iter().for_each(|held| println!("held      {held}"));
    for recipient in &view.recipients {
        println!("<{}>: {}, {} attempts", recipient.address, recipient.state, recipient.attempts);
        if recipient.state == "waiting" {
            println!("    due {}", recipient.next_attempt.as_deref().unwrap_or("now"));
        }
        recipient.reply.iter().for_each(|reply| println!("    {reply}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn retry(
    config: &Config,
    arguments: &ConfigArgument,
    message_id: Option<MessageId>,
    domain: Option<Domain>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let request = RetryRequest { message_id, domain: domain.map(|domain| domain.to_string()) };
    let body = serde_json::to_string(&request)?;
    let answer: RetryAnswer = client::ask(config, arguments, Method::POST, "/v1/queue/retry", Some(body)).await?;
    match json {
        true => println!("{}", serde_json::to_string(&answer)?),
        false => println!("{} recipients are due now", answer.recipients),
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(
    config: &Config,
    arguments: &ConfigArgument,
    request: &CancelRequest,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let body = serde_json::to_string(request)?;
    let answer: Cancelled = client::ask(config, arguments, Method::POST, "/v1/queue/cancel", Some(body)).await?;
    if json {
        println!("{}", serde_json::to_string(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} recipients of {} messages taken back", answer.recipients, answer.messages);
    if answer.in_flight > 0 {
        println!("{} more are being sent right now", answer.in_flight);
    }
    Ok(ExitCode::SUCCESS)
}

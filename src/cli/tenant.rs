//! `posthaste tenant`: who may submit, what and how much.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use humantime_serde::re::humantime;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BAD_USAGE, ConfigArgument, block_on, client};
use crate::access::{CredentialView, Issued, TenantView};
use crate::admin::{CredentialRequest, QuotaRequest, TenantRequest};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Register a tenant and print its token, which is not shown again.
    Add {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        may: May,
        /// What to call the credential.
        #[arg(long, default_value = "")]
        label: String,
        /// Make no credential: it shows certificates, or none are wanted yet.
        #[arg(long, conflicts_with = "label")]
        no_token: bool,
    },
    /// All tenants.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// One tenant with its credentials and what it has used.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Change what a tenant may; what is not said stays.
    Set {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        may: May,
        /// Take nothing from it any more, nor in its name.
        #[arg(long)]
        disable: bool,
        /// Take mail from it again.
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
    },
    /// Make a new token and print it; the old ones end after a grace.
    Rotate {
        #[command(flatten)]
        which: Which,
        /// Replace only these, by id; may be repeated.
        #[arg(long, value_name = "ID")]
        credential: Vec<String>,
        /// Replace none: one more token.
        #[arg(long, conflicts_with_all = ["credential", "grace"])]
        keep: bool,
        /// How long the old ones are good.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
        grace: Duration,
        /// How long the new one is good; not said: until it is replaced or removed.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// What to call it.
        #[arg(long, default_value = "")]
        label: String,
    },
    /// Remove a tenant with all its credentials, or one credential, at once.
    Remove {
        #[command(flatten)]
        which: Which,
        /// Only this credential, by id.
        #[arg(long, value_name = "ID")]
        credential: Option<String>,
    },
}

/// Which tenant, at which daemon.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The tenant's name.
    #[arg(value_parser = name)]
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// What it may.
#[derive(Debug, Args)]
pub(super) struct May {
    /// A domain it may write From, with all below it; may be repeated. \"any\": all domains.
    #[arg(long, value_name = "DOMAIN")]
    from_domain: Option<Vec<String>>,
    /// A class it may use, transactional or bulk; may be repeated. \"any\": both.
    #[arg(long)]
    class: Option<Vec<String>>,
    /// A name in client certificates that stands for it; may be repeated. \"none\": no certificate does.
    #[arg(long, value_name = "NAME")]
    certificate: Option<Vec<String>>,
    /// Recipients a second, in the mean; \"none\": no limit.
    #[arg(long, value_name = "N")]
    per_second: Option<Limit<u32>>,
    /// Recipients at once.
    #[arg(long, value_name = "N")]
    burst: Option<Limit<u32>>,
    /// Recipients in any hour.
    #[arg(long, value_name = "N")]
    per_hour: Option<Limit<u64>>,
    /// Recipients in any day.
    #[arg(long, value_name = "N")]
    per_day: Option<Limit<u64>>,
    /// Recipients waiting in the queue.
    #[arg(long, value_name = "N")]
    waiting_max: Option<Limit<u64>>,
}

/// A number, or "none".
#[derive(Debug, Clone, Copy)]
struct Limit<T>(Option<T>);

impl<T: FromStr<Err = std::num::ParseIntError>> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit<T>, String> {
        match text {
            "none" => Ok(Limit(None)),
            text => text.parse().map(|n| Limit(Some(n))).map_err(|error| format!("{error}; say a number or none")),
        }
    }
}

/// A name can stand in a path as it is; the daemon checks the rest.
fn name(text: &str) -> Result<String, String> {
    let fit = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    let fit = fit && text.bytes().any(|b| b != b'.');
    if fit { Ok(text.into()) } else { Err("a tenant's name has letters, digits, dots, hyphens and underscores".into()) }
}

impl May {
    fn request(self) -> TenantRequest {
        let list = |list: Option<Vec<String>>, nothing: &str| {
            list.map(|list| if list == [nothing] { Vec::new() } else { list })
        };
        TenantRequest {
            from_domains: list(self.from_domain, "any"),
            classes: list(self.class, "any"),
            certificates: list(self.certificate, "none"),
            quota: QuotaRequest {
                per_second: self.per_second.map(|limit| limit.0),
                burst: self.burst.map(|limit| limit.0),
                per_hour: self.per_hour.map(|limit| limit.0),
                per_day: self.per_day.map(|limit| limit.0),
                waiting_max: self.waiting_max.map(|limit| limit.0),
            },
            ..TenantRequest::default()
        }
    }
}

pub(super) fn run(command: TenantCommand) -> anyhow::Result<ExitCode> {
    let (arguments, json) = match &command {
        TenantCommand::List { config, json } => (config.clone(), *json),
        TenantCommand::Add { which, .. }
        | TenantCommand::Show { which }
        | TenantCommand::Set { which, .. }
        | TenantCommand::Rotate { which, .. }
        | TenantCommand::Remove { which, .. } => (which.config.clone(), which.json),
    };
    let config = match arguments.load() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let daemon = Daemon { config, arguments, json };
    block_on(async {
        match command {
            TenantCommand::Add { which, may, label, no_token } => daemon.add(which.name, may, label, no_token).await,
            TenantCommand::List { .. } => daemon.list().await,
            TenantCommand::Show { which } => {
                let tenant: TenantView = daemon.ask(Method::GET, &which.name, "", ()).await?;
                daemon.print(&tenant, || show(&tenant))
            }
            TenantCommand::Set { which, may, disable, enable } => {
                let disabled = (disable || enable).then_some(disable);
                let request = TenantRequest { disabled, ..may.request() };
                if request == TenantRequest::default() {
                    eprintln!("posthaste tenant set: say what to change; see --help");
                    return Ok(ExitCode::from(BAD_USAGE));
                }
                let tenant: TenantView = daemon.ask(Method::PATCH, &which.name, "", request).await?;
                daemon.print(&tenant, || show(&tenant))
            }
            TenantCommand::Rotate { which, credential, keep, grace, expires_in, label } => {
                let replaces = match credential.is_empty() && !keep {
                    true => daemon.good_credentials(&which.name).await?,
                    false => credential,
                };
                let request = CredentialRequest { label, expires_in, replaces, grace: Some(grace) };
                daemon.issue(&which.name, request).await
            }
            TenantCommand::Remove { which, credential } => daemon.remove(&which.name, credential).await,
        }
    })?
}

/// The running daemon, and how to print what it says.
struct Daemon {
    config: Config,
    arguments: ConfigArgument,
    json: bool,
}

impl Daemon {
    /// Asks about a tenant (an empty name: all of them), with a body unless it is `()`.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        name: &str,
        below: &str,
        body: impl Serialize,
    ) -> anyhow::Result<T> {
        let path = if name.is_empty() { "/v1/tenants".into() } else { format!("/v1/tenants/{name}{below}") };
        let body = Some(serde_json::to_string(&body)?).filter(|body| body != "null");
        client::ask(&self.config, &self.arguments, method, &path, body).await
    }

    fn print(&self, answer: &impl Serialize, text: impl FnOnce()) -> anyhow::Result<ExitCode> {
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(answer)?),
            false => text(),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn add(&self, name: String, may: May, label: String, no_token: bool) -> anyhow::Result<ExitCode> {
        let request = TenantRequest { name: Some(name.clone()), ..may.request() };
        let tenant: TenantView = self.ask(Method::POST, "", "", request).await?;
        if no_token {
            return self.print(&tenant, || show(&tenant));
        }
        if !self.json {
            show(&tenant);
        }
        self.issue(&name, CredentialRequest { label, ..CredentialRequest::default() }).await
    }

    async fn list(&self) -> anyhow::Result<ExitCode> {
        let tenants: Vec<TenantView> = self.ask(Method::GET, "", "", ()).await?;
        self.print(&tenants, || {
            for TenantView { tenant, credentials, used, .. } in &tenants {
                let good = credentials.iter().filter(|credential| !credential.expired).count();
                let disabled = if tenant.disabled { "  disabled" } else { "" };
                println!(
                    "{:<24} {good} credentials, {} recipients in the last hour, {} in the last day, {} waiting{disabled}",
                    tenant.name, used.hour, used.day, used.waiting
                );
            }
            println!("{} tenants", tenants.len());
        })
    }

    async fn issue(&self, name: &str, request: CredentialRequest) -> anyhow::Result<ExitCode> {
        let issued: Issued = self.ask(Method::POST, name, "/credentials", request).await?;
        self.print(&issued, || {
            println!("credential  {}", issued.credential.id);
            println!("token       {}", issued.token);
            eprintln!(
                "The token is not shown again. As a password it goes with user {name:?} or {:?}.",
                issued.credential.id
            );
        })
    }

    async fn good_credentials(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let tenant: TenantView = self.ask(Method::GET, name, "", ()).await?;
        let good = tenant.credentials.into_iter().filter(|credential| !credential.expired);
        Ok(good.map(|credential| credential.id).collect())
    }

    async fn remove(&self, name: &str, credential: Option<String>) -> anyhow::Result<ExitCode> {
        let Some(id) = credential else {
            let last: TenantView = self.ask(Method::DELETE, name, "", ()).await?;
            return self
                .print(&last, || println!("tenant {name} is removed; its mail that waits is delivered all the same"));
        };
        if !id.bytes().all(|b| b.is_ascii_alphanumeric()) || id.is_empty() {
            eprintln!("posthaste tenant remove: {id:?} is no id of a credential");
            return Ok(ExitCode::from(BAD_USAGE));
        }
        let left: TenantView = self.ask(Method::DELETE, name, &format!("/credentials/{id}"), ()).await?;
        self.print(&left, || println!("credential {id} is removed"))
    }
}

fn show(view: &TenantView) {
    let TenantView { tenant, created_at, credentials, used } = view;
    let list = |all: Vec<&str>, nothing: &str| if all.is_empty() { nothing.into() } else { all.join(", ") };
    let domains: String = list(tenant.from_domains.iter().map(|domain| domain.as_str()).collect(), "any");
    let classes: String = list(tenant.classes.iter().map(|class| class.as_str()).collect(), "transactional, bulk");
    println!("tenant       {}{}", tenant.name, if tenant.disabled { " (disabled)" } else { "" });
    println!("created      {created_at}");
    println!("may write    {domains}");
    println!("classes      {classes}");
    if !tenant.certificates.is_empty() {
        println!("certificates {}", tenant.certificates.join(", "));
    }
    let quota = &tenant.quota;
    let burst = quota.burst.map_or(String::new(), |burst| format!(", {burst} at once"));
    println!("per second   {}{burst}", of(quota.per_second.map(u64::from)));
    println!("per hour     {} of {}", used.hour, of(quota.per_hour));
    println!("per day      {} of {}", used.day, of(quota.per_day));
    println!("waiting      {} of {}", used.waiting, of(quota.waiting_max));
    for CredentialView { id, label, created_at, expires_at, expired, last_used } in credentials {
        let label = if label.is_empty() { String::new() } else { format!(" {label:?}") };
        let end = match (expired, expires_at) {
            (true, _) => ", expired".into(),
            (false, Some(at)) => format!(", until {at}"),
            (false, None) => String::new(),
        };
        let used = last_used.as_ref().map_or(String::new(), |at| format!(", last used {at}"));
        println!("credential   {id}{label}, made {created_at}{end}{used}");
    }
}

fn of(limit: Option<u64>) -> String {
    limit.map_or_else(|| "no limit".into(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_sent() {
        let none = May {
            from_domain: None,
            class: None,
            certificate: None,
            per_second: None,
            burst: None,
            per_hour: None,
            per_day: None,
            waiting_max: None,
        };
        let some = May {
            from_domain: Some(vec!["any".into()]),
            class: Some(vec!["bulk".into()]),
            per_hour: "none".parse().ok(),
            per_day: "7".parse().ok(),
            ..none
        };
        let request = serde_json::to_value(some.request()).expect("plain data");
        let expected = serde_json::json!({
            "from_domains": [], "classes": ["bulk"], "quota": { "per_hour": null, "per_day": 7 }
        });
        assert_eq!(request, expected);
        assert!("-1".parse::<Limit<u32>>().is_err() && "x".parse::<Limit<u64>>().is_err());
        assert!(name("shop-1").is_ok() && name("..").is_err() && name("a/b").is_err() && name("").is_err());
    }
}

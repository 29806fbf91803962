//! Tenants and their credentials.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};

use super::Parts;
use super::problem::{Asked, Problem};
use crate::access::{BadField, ChangeError, NewCredential, Quota, Tenant};
use crate::mail::{Class, Domain};

/// How long credentials that are replaced are good, unless the request says otherwise.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// What `POST /v1/tenants` takes, and `PATCH` without the name: there, what is not said stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantRequest {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Domains it may write From, each with all below it; empty: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_domains: Option<Vec<String>>,
    /// `transactional`, `bulk`; empty: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// How much it may submit.
    pub quota: QuotaRequest,
    /// Names in client certificates that stand for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<String>>,
    /// Nothing is taken from it, or in its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// Limits in recipients; `null` (`Some(None)`): no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::option_option, reason = "not said, said to be none, said to be a number")]
pub struct QuotaRequest {
    /// In a second, in the mean.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub per_second: Option<Option<u32>>,
    /// At once.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub burst: Option<Option<u32>>,
    /// In any hour.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<Option<u64>>,
    /// In any day.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub per_day: Option<Option<u64>>,
    /// Waiting in the queue.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub waiting_max: Option<Option<u64>>,
}

/// What `POST /v1/tenants/{name}/credentials` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialRequest {
    /// What people call it.
    pub label: String,
    /// How long it is good, as `90d`; not there: until it is removed.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Duration>,
    /// Ids of credentials that it takes the place of.
    pub replaces: Vec<String>,
    /// How much longer those are good, as `1h`; not there: a day.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
}

/// Tells `null` from a field that is not there.
#[allow(clippy::option_option, reason = "that is the point")]
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) async fn list(State(parts): State<Parts>) -> Response {
    Json(parts.access.tenants()).into_response()
}

pub(super) async fn create(
    State(parts): State<Parts>,
    Asked(request): Asked<TenantRequest>,
) -> Result<Response, Problem> {
    let mut tenant = Tenant { name: request.name.clone().unwrap_or_default(), ..Tenant::default() };
    let (change, mut problems) = request.read();
    change.apply(&mut tenant);
    problems.extend(tenant.problems());
    none(problems)?;
    Ok((StatusCode::CREATED, Json(parts.access.create(tenant).await?)).into_response())
}

pub(super) async fn show(State(parts): State<Parts>, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(Json(parts.access.tenant(&name)?).into_response())
}

pub(super) async fn change(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    Asked(request): Asked<TenantRequest>,
) -> Result<Response, Problem> {
    if request.name.as_ref().is_some_and(|new| *new != name) {
        let why = "cannot be changed; register another tenant".to_owned();
        return Err(ChangeError::Bad(vec![BadField { field: "name".into(), why }]).into());
    }
    let (change, problems) = request.read();
    none(problems)?;
    Ok(Json(parts.access.change(&name, move |tenant| change.apply(tenant)).await?).into_response())
}

/// Answers what was removed.
pub(super) async fn remove(State(parts): State<Parts>, Path(name): Path<String>) -> Result<Response, Problem> {
    let last = parts.access.tenant(&name)?;
    parts.access.remove(&name).await?;
    Ok(Json(last).into_response())
}

pub(super) async fn issue(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    Asked(request): Asked<CredentialRequest>,
) -> Result<Response, Problem> {
    let CredentialRequest { label, expires_in, replaces, grace } = request;
    let wanted = NewCredential { label, expires_in, replaces, grace: grace.unwrap_or(GRACE) };
    let issued = parts.access.issue(&name, wanted).await?;
    Ok((StatusCode::CREATED, [("cache-control", "no-store")], Json(issued)).into_response())
}

/// Answers the tenant as it is without it.
pub(super) async fn revoke(
    State(parts): State<Parts>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    parts.access.revoke(&name, &id).await?;
    Ok(Json(parts.access.tenant(&name)?).into_response())
}

/// A [`TenantRequest`] that parsed.
#[derive(Debug)]
pub(super) struct Change {
    from_domains: Option<Vec<Domain>>,
    classes: Option<Vec<Class>>,
    rest: TenantRequest,
}

impl TenantRequest {
    /// Parses what is text, and names every entry that does not parse.
    pub(super) fn read(self) -> (Change, Vec<BadField>) {
        let mut problems = Vec::new();
        let mut bad = |field: String, why: String| problems.push(BadField { field, why });
        let mut domain = |(at, text): (usize, &String)| {
            text.parse::<Domain>().map_err(|error| bad(format!("from_domains[{at}]"), error.to_string())).ok()
        };
        let from_domains =
            self.from_domains.as_ref().map(|all| all.iter().enumerate().filter_map(&mut domain).collect());
        let mut class = |(at, text): (usize, &String)| {
            let class = Class::parse(text).filter(|class| *class != Class::System);
            class.or_else(|| {
                bad(format!("classes[{at}]"), format!("{text:?} is not transactional or bulk"));
                None
            })
        };
        let classes = self.classes.as_ref().map(|all| all.iter().enumerate().filter_map(&mut class).collect());
        (Change { from_domains, classes, rest: self }, problems)
    }
}

fn none(problems: Vec<BadField>) -> Result<(), ChangeError> {
    if problems.is_empty() { Ok(()) } else { Err(ChangeError::Bad(problems)) }
}

impl Change {
    pub(super) fn apply(self, tenant: &mut Tenant) {
        fn set<T>(to: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *to = new;
            }
        }
        set(&mut tenant.from_domains, self.from_domains);
        set(&mut tenant.classes, self.classes);
        set(&mut tenant.certificates, self.rest.certificates);
        set(&mut tenant.disabled, self.rest.disabled);
        let Quota { per_second, burst, per_hour, per_day, waiting_max } = &mut tenant.quota;
        set(per_second, self.rest.quota.per_second);
        set(burst, self.rest.quota.burst);
        set(per_hour, self.rest.quota.per_hour);
        set(per_day, self.rest.quota.per_day);
        set(waiting_max, self.rest.quota.waiting_max);
    }
}

//! Orders: pause, pace and exempt mail, let it go on; and how far sources are warmed up.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Parts;
use super::problem::{Asked, Problem};
use crate::config::Scope;
use crate::mail::{Class, EnvelopeAddress, Stream};
use crate::queue::NewOrder;
use crate::shaping::orders::{Deed, Order, OrderId};

/// What `POST /v1/orders` takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// `pause`, `pace` or `exempt`.
    pub deed: String,
    /// Recipients a second, of a pace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Which mail; `{}` is all of it.
    pub scope: Scope,
    /// How long, as `2h`; not said: until it is taken back.
    #[serde(rename = "for", default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Duration>,
    /// Why, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who gives it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

/// An order in force, as it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderView {
    /// Its number.
    pub id: OrderId,
    /// `pause`, `pace` or `exempt`.
    pub deed: String,
    /// Recipients a second, of a pace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Which mail.
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// Who gave it.
    pub by: String,
    /// RFC 3339.
    pub since: String,
    /// RFC 3339; `None`: until it is taken back.
    pub until: Option<String>,
}

/// What `POST /v1/orders/resume` takes: an order's number, or the mail it is about, exactly as it was given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<OrderId>,
    /// All orders about this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// All orders there are.
    #[serde(default)]
    pub all: bool,
    /// Who lifts them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

/// What `GET /v1/explain` may be asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    address: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    class: Class,
    #[serde(default)]
    campaign: String,
}

pub(super) async fn list(State(parts): State<Parts>) -> Response {
    Json(parts.queue.orders().iter().map(OrderView::from).collect::<Vec<_>>()).into_response()
}

pub(super) async fn give(State(parts): State<Parts>, Asked(request): Asked<OrderRequest>) -> Result<Response, Problem> {
    let order = parts.queue.order(new_order(request)?).await?;
    Ok((StatusCode::CREATED, Json(OrderView::from(&order))).into_response())
}

pub(super) async fn take_back(State(parts): State<Parts>, Path(id): Path<u64>) -> Result<Response, Problem> {
    match parts.queue.take_back_order(OrderId(id), "operator").await? {
        Some(order) => Ok(Json(OrderView::from(&order)).into_response()),
        None => Err(Problem::missing(format!("no order {id}"))),
    }
}

pub(super) async fn resume(
    State(parts): State<Parts>,
    Asked(request): Asked<ResumeRequest>,
) -> Result<Response, Problem> {
    let ResumeRequest { id, scope, all, by } = request;
    if usize::from(id.is_some()) + usize::from(scope.is_some()) + usize::from(all) != 1 {
        return Err(Problem::bad("say id, scope or all: one of them"));
    }
    let named = |order: &&Order| all || id == Some(order.id) || scope.as_ref() == Some(&order.scope);
    let ids: Vec<OrderId> = parts.queue.orders().iter().filter(named).map(|order| order.id).collect();
    let by = if by.is_empty() { "operator" } else { &by };
    let mut lifted = Vec::with_capacity(ids.len());
    for id in ids {
        lifted.extend(parts.queue.take_back_order(id, by).await?.as_ref().map(OrderView::from));
    }
    match (lifted.is_empty(), all) {
        (true, false) => Err(Problem::missing("no order is about that; `posthaste queue orders` lists those in force")),
        _ => Ok(Json(lifted).into_response()),
    }
}

pub(super) async fn warmup(State(parts): State<Parts>) -> Response {
    Json(parts.queue.warmups()).into_response()
}

pub(super) async fn explain(
    State(parts): State<Parts>,
    Query(query): Query<ExplainQuery>,
) -> Result<Response, Problem> {
    let ExplainQuery { address, tenant, class, campaign } = query;
    let address: EnvelopeAddress = address.parse().map_err(Problem::bad)?;
    let stream = Stream { tenant: tenant.into(), class, campaign: campaign.into() };
    Ok(Json(parts.queue.explain(&address, &stream).await).into_response())
}

/// What is asked, as an order.
pub(super) fn new_order(request: OrderRequest) -> Result<NewOrder, Problem> {
    let OrderRequest { deed, per_second, scope, lasts, reason, by } = request;
    let deed = match (deed.as_str(), per_second) {
        ("pause", None) => Deed::Pause,
        ("exempt", None) => Deed::Exempt,
        ("pace", Some(per_second)) => Deed::Pace { per_second },
        ("pace", None) => return Err(Problem::field("per_second", "say how many recipients a second")),
        ("pause" | "exempt", Some(_)) => return Err(Problem::field("per_second", "is for the deed pace only")),
        _ => return Err(Problem::field("deed", "must be pause, pace or exempt")),
    };
    let by = if by.is_empty() { "operator".into() } else { by };
    Ok(NewOrder { deed, scope, reason, by, lasts })
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> OrderView {
        let per_second = match order.deed {
            Deed::Pace { per_second } => Some(per_second),
            Deed::Pause | Deed::Exempt => None,
        };
        OrderView {
            id: order.id,
            deed: order.deed.as_str().into(),
            per_second,
            scope: order.scope.clone(),
            reason: order.reason.clone(),
            by: order.by.clone(),
            since: order.since.to_string(),
            until: order.until.map(|until| until.to_string()),
        }
    }
}

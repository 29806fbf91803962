//! `/v1/suppressions`: who is not mailed any more.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::body::json_rejection;
use super::negotiate::{JSON, NDJSON, Refusal, kind};
use super::openapi::Problems;
use super::query;
use super::shapes::{List, Object};
use crate::access::Principal;
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::suppressions::{self, ENTRIES_MAX, Whose};
use crate::submission::web::{self, Peer};
use crate::suppression::{Entry, EntryText, Format, Imported};

/// Largest body that is no import.
const BODY_MAX: usize = 1 << 20;
/// Entries of a page, unless the request says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Who says so, unless an entry names somebody.
const SOURCE: &str = "http";

/// An entry of the suppression list. One of address, domain and hash is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"address": "ann@example.com", "tenant": "shop", "list": "news", "reason": "unsubscribe"}))]
pub(super) struct Suppression {
    /// An address; its case does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 3, max_length = 512)]
    address: Option<String>,
    /// A domain: all its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 253)]
    domain: Option<String>,
    /// SHA-256 of an address in lower case, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    hash: Option<String>,
    /// `global`, `tenant:NAME` or `list:TENANT/LIST`; instead, tenant and list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 520)]
    scope: Option<String>,
    /// The tenant whose mail is kept away; a client bound to one may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    tenant: Option<String>,
    /// The tenant's list to which it is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    list: Option<String>,
    /// `hard-bounce`, `complaint`, `unsubscribe` or `manual`. Default: `manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(hard-bounce|complaint|unsubscribe|manual)$")]
    reason: Option<String>,
    /// The event that led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    evidence: Option<String>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    source: Option<String>,
    /// Since when. Default: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Until when. Default: for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// Entries to add.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Additions {
    /// They are added all or none, over older ones of the same subject and scope.
    #[schema(value_type = Vec<Suppression>, min_items = 1, max_items = 1000)]
    entries: List<Object<Suppression>, ENTRIES_MAX>,
}

/// Some entries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SuppressionPage {
    /// In no order that means anything.
    entries: Vec<Suppression>,
    /// Where the next page begins; absent: this is the last. A page may have few entries, or none, and not be the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// What was added.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Added {
    /// Entries that were stored.
    stored: u64,
    /// Rows of a file that are wrong, and left out.
    refused: u64,
    /// What is wrong with the first thousand of them.
    errors: Vec<WrongRow>,
}

/// What is wrong with a row.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrongRow {
    /// Its line, from 1.
    line: u64,
    /// What.
    why: String,
}

impl From<Imported> for Added {
    fn from(done: Imported) -> Added {
        let errors = done.errors.into_iter().map(|error| WrongRow { line: error.line, why: error.why });
        Added { stored: done.stored, refused: done.refused, errors: errors.collect() }
    }
}

impl From<&Entry> for Suppression {
    fn from(entry: &Entry) -> Suppression {
        let text = EntryText::of(entry);
        let owned = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
        Suppression {
            address: owned(text.address),
            domain: owned(text.domain),
            hash: owned(text.hash),
            scope: owned(text.scope),
            tenant: None,
            list: None,
            reason: owned(text.reason),
            evidence: owned(text.evidence),
            source: owned(text.source),
            since: owned(text.since),
            until: owned(text.until),
        }
    }
}

impl Additions {
    /// Its entries.
    pub(super) fn texts(self) -> Vec<EntryText<'static>> {
        self.entries.0.into_iter().map(|Object(entry)| entry.text()).collect()
    }
}

impl Suppression {
    fn text(self) -> EntryText<'static> {
        EntryText {
            address: self.address.map(Into::into),
            domain: self.domain.map(Into::into),
            hash: self.hash.map(Into::into),
            scope: self.scope.map(Into::into),
            tenant: self.tenant.map(Into::into),
            list: self.list.map(Into::into),
            reason: self.reason.map(Into::into),
            evidence: self.evidence.map(Into::into),
            source: self.source.map(Into::into),
            since: self.since.map(Into::into),
            until: self.until.map(Into::into),
        }
    }
}

/// What stands in a query.
#[derive(Debug, Default)]
struct Asked {
    whose: Whose,
    subject: EntryText<'static>,
    reason: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Reads the parameters; `known` are those that there are.
fn asked(pairs: Pairs, known: &[&str]) -> Result<Asked, Rejection> {
    let Query(pairs) = pairs.map_err(|_| Rejection::invalid("query", "is not well-formed"))?;
    let mut asked = Asked::default();
    let mut violations = Vec::new();
    for (name, value) in pairs {
        let twice = match name.as_str() {
            known_name if !known.contains(&known_name) => {
                let why = "no such parameter in this version".into();
                violations.push(Violation { field: query::clean(&name).into(), why });
                continue;
            }
            "tenant" => asked.whose.tenant.replace(value),
            "list" => asked.whose.list.replace(value),
            "reason" => asked.reason.replace(value),
            "cursor" => asked.cursor.replace(value),
            "address" => asked.subject.address.replace(value.into()).map(Into::into),
            "domain" => asked.subject.domain.replace(value.into()).map(Into::into),
            "hash" => asked.subject.hash.replace(value.into()).map(Into::into),
            _ => match value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)) {
                Some(limit) => asked.limit.replace(limit).map(|_| value),
                None => {
                    let why = format!("must be a number from 1 to {LIMIT_MAX}").into();
                    violations.push(Violation { field: "limit".into(), why });
                    continue;
                }
            },
        };
        if twice.is_some() {
            violations.push(Violation { field: query::clean(&name).into(), why: "is there twice".into() });
        }
    }
    if violations.is_empty() { Ok(asked) } else { Err(Rejection::violations(violations)) }
}

/// For a fuzz target: a limit is one, nothing is there that was not asked for, and what is wrong is told.
pub(super) fn check_query(pairs: Vec<(String, String)>) {
    let known = ["address", "tenant", "list", "reason", "cursor", "limit"];
    match asked(Ok(Query(pairs.clone())), &known) {
        Ok(Asked { whose, subject, reason, cursor, limit }) => {
            assert!(limit.is_none_or(|limit| (1..=LIMIT_MAX).contains(&limit)));
            let there = [whose.tenant, whose.list, reason, subject.address.map(Into::into), cursor.clone()];
            let there = there.iter().flatten().count() + usize::from(limit.is_some());
            assert!(there == pairs.len() && subject.domain.is_none() && subject.hash.is_none());
            if let Ok(position) = suppressions::position(cursor.as_deref()) {
                assert_eq!(cursor.unwrap_or_else(|| suppressions::cursor(0)), suppressions::cursor(position));
            }
        }
        Err(rejection) => super::probe::check_rejection(&rejection),
    }
}

/// Look through the suppression list.
///
/// A client bound to a tenant sees that tenant's entries. With `address`: what keeps that tenant's mail, to that list, from it now.
#[utoipa::path(
    get,
    path = "/v1/suppressions",
    operation_id = "listSuppressions",
    tag = "suppressions",
    params(
        ("address" = Option<String>, Query, description = "Only what keeps mail from this address now.", min_length = 3, max_length = 512),
        ("tenant" = Option<String>, Query, description = "Only of this tenant.", min_length = 1, max_length = 128),
        ("list" = Option<String>, Query, description = "Only of this list of the tenant.", min_length = 1, max_length = 128),
        ("reason" = Option<String>, Query, description = "Only for this reason.", pattern = "^(hard-bounce|complaint|unsubscribe|manual)$"),
        ("cursor" = Option<String>, Query, description = "Where to go on, as the last page said.", pattern = "^[0-9a-f]{16}$"),
        ("limit" = Option<u32>, Query, description = "At most so many, about. Default: 100.", minimum = 1, maximum = 1000),
    ),
    responses(
        (status = 200, description = "Some entries.", body = SuppressionPage, content_type = "application/json"),
        Problems,
    ),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    query: Pairs,
    headers: HeaderMap,
) -> Response {
    let look = async |principal: &Principal| {
        let asked = asked(query, &["address", "tenant", "list", "reason", "cursor", "limit"])?;
        let list = shared.gate.suppressions();
        let limit = asked.limit.unwrap_or(LIMIT);
        let from = suppressions::position(asked.cursor.as_deref())?;
        let reason = suppressions::reason(asked.reason.as_deref())?;
        if let Some(address) = &asked.subject.address {
            let now = shared.clock.timestamp();
            let found = suppressions::check(list, principal, &asked.whose, address, now)?;
            let found = found.filter(|entry| reason.is_none_or(|reason| reason == entry.reason));
            let entries = found.iter().map(Suppression::from).collect();
            return Ok(SuppressionPage { entries, next_cursor: None });
        }
        let wanted = suppressions::wanted(principal, &asked.whose, reason)?;
        let page = suppressions::page(list, wanted, from, limit).await?;
        let entries = page.entries.iter().map(Suppression::from).collect();
        Ok(SuppressionPage { entries, next_cursor: page.next.map(suppressions::cursor) })
    };
    shared.tell(&peer, &headers, look).await
}

/// Add to the suppression list.
///
/// Up to 1000 entries in JSON, all or none; or a file of any length, CSV or NDJSON: rows that are wrong are left out and told. `tenant`
/// and `list` hold for entries that say nothing of it. The answer comes when all is on disk.
#[utoipa::path(
    post,
    path = "/v1/suppressions",
    operation_id = "addSuppressions",
    tag = "suppressions",
    params(
        ("tenant" = Option<String>, Query, description = "The tenant of entries that name none.", min_length = 1, max_length = 128),
        ("list" = Option<String>, Query, description = "The list of entries that name none.", min_length = 1, max_length = 128),
    ),
    request_body(content((Additions = "application/json"), (String = "text/csv"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "They are on disk, and hold.", body = Added, content_type = "application/json"),
        Problems,
    ),
)]
pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    query: Pairs,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut body = Some(body);
    let result = add_some(&shared, &peer, query, &headers, &mut body).await;
    shared.answer_over(body, &headers, result).await
}

async fn add_some(
    shared: &Arc<Shared>,
    peer: &Peer,
    query: Pairs,
    headers: &HeaderMap,
    unread: &mut Option<Body>,
) -> Result<Response, Refusal> {
    let principal = shared.admit(peer, headers, JSON).await?;
    let kind = kind(headers, &[JSON, NDJSON, "text/csv"])?;
    let whose = asked(query, &["tenant", "list"])?.whose;
    let (list, now) = (shared.gate.suppressions(), shared.clock.timestamp());
    let added = if kind == JSON {
        let body = unread.take().unwrap_or_default();
        let (octets, _memory) = web::read_body(body, &shared.budget, BODY_MAX).await?;
        let Object(additions) =
            serde_json::from_slice::<Object<Additions>>(&octets).map_err(|error| json_rejection(&octets, &error))?;
        let stored = suppressions::add(list, &principal, &whose, &additions.texts(), SOURCE, now).await?;
        Added { stored: stored as u64, ..Added::default() }
    } else {
        let format = if kind == NDJSON { Format::Ndjson } else { Format::Csv };
        let importing = suppressions::import(list, &principal, &whose, format, SOURCE, now).await?;
        let body = unread.get_or_insert_default();
        while let Some(piece) = web::next_octets(body).await? {
            if !importing.take(piece).await {
                break;
            }
        }
        importing.finish().await.map_err(|error| Rejection::trouble(error.to_string()))?.into()
    };
    Ok((StatusCode::OK, Json(added)).into_response())
}

/// Take entries out of the suppression list.
///
/// Those of one address, domain or hash: of that list, or without one all of the tenant's; 404 if there is none.
#[utoipa::path(
    delete,
    path = "/v1/suppressions",
    operation_id = "removeSuppressions",
    tag = "suppressions",
    params(
        ("address" = Option<String>, Query, description = "An address.", min_length = 3, max_length = 512),
        ("domain" = Option<String>, Query, description = "A domain.", min_length = 1, max_length = 253),
        ("hash" = Option<String>, Query, description = "SHA-256 of an address.", pattern = "^[0-9A-Fa-f]{64}$"),
        ("tenant" = Option<String>, Query, description = "Whose.", min_length = 1, max_length = 128),
        ("list" = Option<String>, Query, description = "Only that of this list.", min_length = 1, max_length = 128),
    ),
    responses(
        (status = 200, description = "What was taken out, durably.", body = SuppressionPage, content_type = "application/json"),
        Problems,
    ),
)]
pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Arc<Peer>>,
    query: Pairs,
    headers: HeaderMap,
) -> Response {
    let remove = async |principal: &Principal| {
        let asked = asked(query, &["address", "domain", "hash", "tenant", "list"])?;
        let list = shared.gate.suppressions();
        let removed = suppressions::remove(list, principal, &asked.whose, &asked.subject, SOURCE).await?;
        Ok(SuppressionPage { entries: removed.iter().map(Suppression::from).collect(), next_cursor: None })
    };
    shared.tell(&peer, &headers, remove).await
}

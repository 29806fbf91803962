//! The suppression list: looked through, changed, imported, exported.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Parts;
use super::problem::{Asked, Problem};
use crate::clock::Clock;
use crate::ledger::LedgerError;
use crate::suppression::{
    Defaults, Entry, EntryText, Format, Reason, Scope, Subject, Suppressions, TextError, Wanted, Wrong, export,
    export_header,
};

/// Entries of an answer, unless the request says otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 10_000;
/// More entries than this are an import.
const ADD_MAX: usize = 1000;

/// Which entries, and how they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuppressionQuery {
    /// Only of this scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Only of this tenant and its lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only for this reason; at an import: the reason of rows that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Who says so, at an import, in rows that name nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only say what an import would do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Whom a look is about: an address, `@DOMAIN` or a hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// Entries, and where there are more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SuppressionList {
    /// In no order that means anything.
    pub entries: Vec<EntryText<'static>>,
    /// Where to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many there are in all, by scope: global, tenant, list. What was imported twice may count twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<[u64; 3]>,
}

/// Entries to add.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// They are added all or none.
    pub entries: Vec<EntryText<'static>>,
}

/// What was added.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddAnswer {
    /// How many.
    pub added: usize,
}

/// What to take out: who, and whose mail; without a scope everybody's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveRequest {
    /// An address, `@DOMAIN` or a hash.
    pub subject: String,
    /// Only in this scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Problem {
        Problem::field(wrong.field, &wrong.why)
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        Problem::trouble(error)
    }
}

impl SuppressionQuery {
    fn wanted(&self) -> Result<Wanted, Problem> {
        let wrong = |field: &'static str| move |error: TextError| Problem::field(field, &error.to_string());
        Ok(Wanted {
            tenant: self.tenant.as_deref().map(Box::from),
            scope: self.scope.as_deref().map(str::parse).transpose().map_err(wrong("scope"))?,
            reason: self.reason.as_deref().map(str::parse).transpose().map_err(wrong("reason"))?,
        })
    }

    pub(super) fn defaults(&self) -> Result<Defaults, Problem> {
        let Wanted { scope, reason, .. } = self.wanted()?;
        Ok(Defaults {
            tenant: self.tenant.as_deref().map(Box::from),
            scope,
            reason: reason.unwrap_or(Reason::Manual),
            source: self.source.as_deref().unwrap_or("operator").into(),
            since: Clock.timestamp(),
        })
    }
}

fn shown(entries: Vec<Entry>) -> Vec<EntryText<'static>> {
    entries.iter().map(EntryText::of).collect()
}

fn subject(text: &str) -> Result<Subject, Problem> {
    text.parse().map_err(|error: TextError| Problem::field("subject", &error.to_string()))
}

pub(super) async fn list(
    State(parts): State<Parts>,
    Query(query): Query<SuppressionQuery>,
) -> Result<Response, Problem> {
    let list = parts.queue.suppressions();
    if let Some(text) = &query.subject {
        let wanted = query.wanted()?;
        let mut entries = list.find(&subject(text)?)?;
        entries.retain(|entry| wanted.wants(entry));
        return Ok(Json(SuppressionList { entries: shown(entries), ..SuppressionList::default() }).into_response());
    }
    let from = query.cursor.as_deref().map_or(Ok(0), |cursor| u64::from_str_radix(cursor, 16));
    let from = from.map_err(|_| Problem::field("cursor", "is none of ours"))?;
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let page = list.page(query.wanted()?, from, limit).await?;
    let next = page.next.map(|next| format!("{next:016x}"));
    Ok(Json(SuppressionList { entries: shown(page.entries), next, counts: Some(list.counts()) }).into_response())
}

pub(super) async fn add(
    State(parts): State<Parts>,
    Asked(request): Asked<AddRequest>,
) -> Result<Json<AddAnswer>, Problem> {
    let list = parts.queue.suppressions();
    if request.entries.len() > ADD_MAX {
        return Err(Problem::field("entries", "more than 1000 are an import"));
    }
    let (defaults, rules) = (SuppressionQuery::default().defaults()?, list.rules());
    let entries = request.entries.iter().map(|text| text.entry(&defaults, &rules));
    let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
    let added = entries.len();
    list.add(entries).await?;
    Ok(Json(AddAnswer { added }))
}

/// Answers what was removed.
pub(super) async fn remove(
    State(parts): State<Parts>,
    Asked(request): Asked<RemoveRequest>,
) -> Result<Json<SuppressionList>, Problem> {
    let list = parts.queue.suppressions();
    let scope: Option<Scope> = request
        .scope
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error: TextError| Problem::field("scope", &error.to_string()))?;
    let subject = subject(&request.subject)?;
    let mut removed = Vec::new();
    // Those of this subject only, not of its domain.
    for entry in list.exactly(&subject)? {
        if scope.as_ref().is_none_or(|scope| *scope == entry.scope) && list.remove(&entry.scope, &subject).await? {
            removed.push(entry);
        }
    }
    Ok(Json(SuppressionList { entries: shown(removed), ..SuppressionList::default() }))
}

pub(super) async fn import(
    State(parts): State<Parts>,
    Query(query): Query<SuppressionQuery>,
    body: Body,
) -> Result<Response, Problem> {
    let list: &std::sync::Arc<Suppressions> = parts.queue.suppressions();
    let importing = list.import(query.format.unwrap_or_default(), query.defaults()?, query.dry_run, None);
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::bad(format!("the file broke off: {error}")))?;
        if let Ok(piece) = frame.into_data()
            && !importing.take(piece).await
        {
            break;
        }
    }
    Ok(Json(importing.finish().await?).into_response())
}

pub(super) async fn export_all(
    State(parts): State<Parts>,
    Query(query): Query<SuppressionQuery>,
) -> Result<Response, Problem> {
    let (format, pages) = (query.format.unwrap_or_default(), parts.queue.suppressions().pages(query.wanted()?));
    let pages = ReceiverStream::new(pages).map(move |page| {
        let mut out = String::new();
        page.map_err(|error| std::io::Error::other(error.to_string()))?
            .iter()
            .for_each(|entry| export(&mut out, format, entry));
        Ok::<_, std::io::Error>(Bytes::from(out))
    });
    let header = Ok(Bytes::from_static(export_header(format).as_bytes()));
    let kind = match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Ndjson => "application/x-ndjson",
    };
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(tokio_stream::once(header).chain(pages))).into_response())
}

//! The calls of `posthaste.v1.Suppressions`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::reading::Reading;
use super::v1::{self, remove_suppressions_request, suppression, suppressions_server};
use super::{Desk, Shared, status, translate};
use crate::ledger::LedgerError;
use crate::submission::rejection::Rejection;
use crate::submission::suppressions::{self, Whose};
use crate::suppression::{Entry, EntryText, Format, Reason, Scope, Subject};

/// Who says so, unless an entry names somebody.
const SOURCE: &str = "grpc";

/// The Suppressions service.
pub(super) struct Listing<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Desk> Listing<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Listing<D> {
        Listing { shared }
    }

    fn refuse(&self, rejection: &Rejection) -> Status {
        self.shared.refused(rejection);
        status::status(rejection)
    }
}

#[tonic::async_trait]
impl<D: Desk> suppressions_server::Suppressions for Listing<D> {
    async fn add(
        &self,
        request: Request<v1::AddSuppressionsRequest>,
    ) -> Result<Response<v1::AddSuppressionsResponse>, Status> {
        let caller = self.shared.caller(&request)?;
        let texts: Vec<_> = request.into_inner().entries.into_iter().map(text).collect();
        let (list, now) = (self.shared.desk.suppressions(), self.shared.clock.timestamp());
        let added = suppressions::add(list, &caller.principal, &Whose::default(), &texts, SOURCE, now).await;
        let added = added.map_err(|no| self.refuse(&no))? as u64;
        Ok(Response::new(v1::AddSuppressionsResponse { added }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSuppressionsRequest>,
    ) -> Result<Response<v1::RemoveSuppressionsResponse>, Status> {
        use remove_suppressions_request::Subject;
        let caller = self.shared.caller(&request)?;
        let v1::RemoveSuppressionsRequest { subject, tenant, list } = request.into_inner();
        let subject = match subject {
            Some(Subject::Address(address)) => EntryText { address: Some(address.into()), ..EntryText::default() },
            Some(Subject::Domain(domain)) => EntryText { domain: Some(domain.into()), ..EntryText::default() },
            Some(Subject::Hash(hash)) => EntryText { hash: Some(hash.into()), ..EntryText::default() },
            None => EntryText::default(),
        };
        let (held, whose) = (self.shared.desk.suppressions(), whose(tenant, list));
        let removed = suppressions::remove(held, &caller.principal, &whose, &subject, SOURCE).await;
        // A look for what is not there is nothing refused.
        let removed = removed.map_err(|no| status::status(&no))?.into_iter().map(shown).collect();
        Ok(Response::new(v1::RemoveSuppressionsResponse { removed }))
    }

    async fn check(
        &self,
        request: Request<v1::CheckSuppressionRequest>,
    ) -> Result<Response<v1::CheckSuppressionResponse>, Status> {
        let caller = self.shared.caller(&request)?;
        let v1::CheckSuppressionRequest { address, tenant, list } = request.into_inner();
        let (held, now) = (self.shared.desk.suppressions(), self.shared.clock.timestamp());
        let found = suppressions::check(held, &caller.principal, &whose(tenant, list), &address, now);
        let entry = found.map_err(|no| self.refuse(&no))?.map(shown);
        Ok(Response::new(v1::CheckSuppressionResponse { entry }))
    }

    type ListStream = Entries;

    async fn list(&self, request: Request<v1::ListSuppressionsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let caller = self.shared.caller(&request)?;
        let v1::ListSuppressionsRequest { tenant, list, reason } = request.into_inner();
        let reason = reason_text(reason);
        let wanted = suppressions::reason(reason.as_deref())
            .and_then(|reason| suppressions::wanted(&caller.principal, &whose(tenant, list), reason));
        let pages = self.shared.desk.suppressions().pages(wanted.map_err(|no| self.refuse(&no))?);
        Ok(Response::new(Entries { pages, page: Vec::new().into_iter() }))
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::Suppression>>,
    ) -> Result<Response<v1::ImportSuppressionsResponse>, Status> {
        let caller = self.shared.caller(&request)?;
        let reading = request.extensions().get::<Arc<Reading>>().cloned();
        let (list, now) = (self.shared.desk.suppressions(), self.shared.clock.timestamp());
        let anybodys = Whose::default();
        let importing = suppressions::import(list, &caller.principal, &anybodys, Format::Ndjson, SOURCE, now);
        let importing = importing.await.map_err(|no| self.refuse(&no))?;
        let mut entries = request.into_inner();
        while let Some(entry) = entries.next().await {
            let mut line = serde_json::to_vec(&text(entry?)).expect("every field is text");
            line.push(b'\n');
            if !importing.take(Bytes::from(line)).await {
                break;
            }
            // The memory of its message.
            drop(reading.as_ref().map(|reading| reading.split(0)));
        }
        let done = importing.finish().await.map_err(|error| trouble(&error))?;
        let wrong = |error: crate::suppression::RowError| v1::import_suppressions_response::Wrong {
            place: error.line,
            why: error.why,
        };
        let errors = done.errors.into_iter().map(wrong).collect();
        Ok(Response::new(v1::ImportSuppressionsResponse { stored: done.stored, refused: done.refused, errors }))
    }
}

/// Entries on their way to a client that takes them.
pub struct Entries {
    pages: mpsc::Receiver<Result<Vec<Entry>, LedgerError>>,
    page: std::vec::IntoIter<Entry>,
}

impl Stream for Entries {
    type Item = Result<v1::Suppression, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Poll::Ready(Some(Ok(shown(entry))));
            }
            match ready!(self.pages.poll_recv(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(page)) => self.page = page.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(trouble(&error)))),
            }
        }
    }
}

fn trouble(error: &LedgerError) -> Status {
    status::status(&Rejection::trouble(error.to_string()))
}

fn whose(tenant: String, list: String) -> Whose {
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    Whose { tenant: said(tenant), list: said(list) }
}

/// The reason by name; a number we do not know stays one, and is refused as a reason.
fn reason_text(number: i32) -> Option<String> {
    use suppression::Reason as Named;
    Some(match Named::try_from(number) {
        Ok(Named::Unspecified) => return None,
        Ok(Named::HardBounce) => Reason::HardBounce.as_str().into(),
        Ok(Named::Complaint) => Reason::Complaint.as_str().into(),
        Ok(Named::Unsubscribe) => Reason::Unsubscribe.as_str().into(),
        Ok(Named::Manual) => Reason::Manual.as_str().into(),
        Err(_) => number.to_string(),
    })
}

pub(super) fn text(entry: v1::Suppression) -> EntryText<'static> {
    let said = |text: String| Some(text.into()).filter(|text: &std::borrow::Cow<'_, str>| !text.is_empty());
    let mut text = EntryText {
        scope: entry.global.then(|| "global".into()),
        tenant: said(entry.tenant),
        list: said(entry.list),
        reason: reason_text(entry.reason).map(Into::into),
        evidence: said(entry.evidence),
        source: said(entry.source),
        since: entry.since.map(|time| translate::time_text(time).into()),
        until: entry.until.map(|time| translate::time_text(time).into()),
        ..EntryText::default()
    };
    match entry.subject {
        Some(suppression::Subject::Address(address)) => text.address = Some(address.into()),
        Some(suppression::Subject::Domain(domain)) => text.domain = Some(domain.into()),
        Some(suppression::Subject::Hash(hash)) => text.hash = Some(hash.into()),
        None => {}
    }
    text
}

fn shown(entry: Entry) -> v1::Suppression {
    let subject = match &entry.subject {
        Subject::Address(address) => suppression::Subject::Address(String::from(address.clone())),
        Subject::Domain(domain) => suppression::Subject::Domain(domain.to_string()),
        hash @ Subject::Hash(_) => suppression::Subject::Hash(hash.to_string()["sha256:".len()..].to_owned()),
    };
    let (tenant, list) = match &entry.scope {
        Scope::Global => (String::new(), String::new()),
        Scope::Tenant(tenant) => (String::from(tenant.clone()), String::new()),
        Scope::List { tenant, list } => (String::from(tenant.clone()), String::from(list.clone())),
    };
    let reason = match entry.reason {
        Reason::HardBounce => suppression::Reason::HardBounce,
        Reason::Complaint => suppression::Reason::Complaint,
        Reason::Unsubscribe => suppression::Reason::Unsubscribe,
        Reason::Manual => suppression::Reason::Manual,
    };
    v1::Suppression {
        subject: Some(subject),
        global: entry.scope == Scope::Global,
        tenant,
        list,
        reason: reason.into(),
        evidence: entry.evidence.into(),
        source: entry.source.into(),
        since: Some(translate::timestamp(entry.since)),
        until: entry.until.map(translate::timestamp),
    }
}

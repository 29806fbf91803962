//! `Events.Watch`: the event log, from a cursor on, through filters.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Request, Response, Status};

use super::line::{self, Line};
use super::v1::events_server::Events;
use super::v1::{WatchRequest, WatchResponse, event, watch_request};
use super::{Desk, Shared, status, translate};
use crate::events::{Batch, Cursor, EventLog, Start, Watch, WatchError};
use crate::submission::rejection::{Rejection, Violation};
use crate::submission::web::stands;

/// Watchers at once. Each holds a block of the log in memory, and reads from disk what others do not.
pub(super) const WATCHERS_MAX: usize = 64;

/// Kinds in one request.
const KINDS_MAX: usize = 16;

/// The Events service.
pub(super) struct Watching<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Desk> Watching<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Watching<D> {
        Watching { shared }
    }
}

#[tonic::async_trait]
impl<D: Desk> Events for Watching<D> {
    type WatchStream = Following;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Following>, Status> {
        let caller = self.shared.caller(&request)?;
        let (start, mut filter) = read(request.into_inner()).map_err(|no| status::status(&no))?;
        if let Some(own) = &caller.principal.tenant {
            if filter.tenant.as_deref().is_some_and(|named| named != own.name) {
                let why = format!("you may watch {:?} only", own.name);
                return Err(status::status(&Rejection::forbidden("tenant", why)));
            }
            filter.tenant = Some(own.name.clone());
        }
        let full = |_| status::status(&Rejection::full(format!("{WATCHERS_MAX} clients are watching already")));
        let seat = Arc::clone(&self.shared.watchers).try_acquire_owned().map_err(full)?;
        let log = Arc::clone(&self.shared.events);
        let opened = tokio::task::spawn_blocking(move || EventLog::watch(&log, start)).await;
        let watch = opened.map_err(|_| ended(WatchError::Closed))?.map_err(ended)?;
        let closing = Box::pin(self.shared.closing.clone().cancelled_owned());
        let sent = watch.cursor();
        let next = Some(Box::pin(next(watch)) as Next);
        let shared = Arc::clone(&self.shared);
        let stands =
            Box::new(move || stands(shared.desk.access(), &shared.policy.load(), &caller.peer, &caller.principal));
        Ok(Response::new(Following { filter, stands, next, ready: VecDeque::new(), sent, closing, _seat: seat }))
    }
}

/// What is asked for.
pub(super) fn read(asked: WatchRequest) -> Result<(Start, Filter), Rejection> {
    let mut violations = Vec::new();
    let mut wrong = |field: String, why: String| violations.push(Violation { field: field.into(), why: why.into() });
    let start = match (asked.cursor.as_str(), watch_request::Start::try_from(asked.start)) {
        ("", Ok(watch_request::Start::Oldest)) => Start::Oldest,
        ("", Ok(_)) => Start::Now,
        (_, Err(_)) => {
            wrong("start".into(), "must be NOW or OLDEST".into());
            Start::Now
        }
        (cursor, Ok(_)) => cursor.parse().map_or_else(
            |error: crate::events::CursorError| {
                wrong("cursor".into(), error.to_string());
                Start::Now
            },
            Start::After,
        ),
    };
    let mut kinds = Vec::new();
    if asked.kinds.len() > KINDS_MAX {
        wrong("kinds".into(), format!("at most {KINDS_MAX}"));
    }
    for (place, number) in asked.kinds.iter().enumerate().take(KINDS_MAX) {
        match event::Kind::try_from(*number) {
            Ok(event::Kind::Unspecified) | Err(_) => wrong(format!("kinds[{place}]"), "no such kind".into()),
            Ok(kind) => kinds.push(kind),
        }
    }
    let message_id = match asked.message_id.as_str() {
        "" => None,
        id => match translate::message_id(id) {
            Ok(id) => Some(id.to_string()),
            Err(no) => {
                violations.extend(no.violations);
                None
            }
        },
    };
    if !violations.is_empty() {
        return Err(Rejection::violations(violations));
    }
    let said = |text: String| (!text.is_empty()).then_some(text);
    Ok((start, Filter { tenant: said(asked.tenant), campaign: said(asked.campaign), message_id, kinds }))
}

/// Which events a client wants to see, and may.
#[derive(Debug)]
pub(super) struct Filter {
    tenant: Option<String>,
    campaign: Option<String>,
    message_id: Option<String>,
    /// Empty: all.
    kinds: Vec<event::Kind>,
}

impl Filter {
    fn passes(&self, line: &Line<'_>) -> bool {
        let kind = line::kind(&line.event);
        // What belongs to no message is a notice, for the operator of this engine, or a change of the suppression list: the
        // scope of its entry says whose it is.
        if line.message_id.is_empty() && kind != event::Kind::Suppression {
            return false;
        }
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.tenant, &line.tenant)
            && is(&self.campaign, &line.campaign)
            && is(&self.message_id, &line.message_id)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

type Next = Pin<Box<dyn Future<Output = (Watch, Result<Batch, WatchError>)> + Send>>;

async fn next(mut watch: Watch) -> (Watch, Result<Batch, WatchError>) {
    let batch = watch.next().await;
    (watch, batch)
}

/// The responses. Nothing is read while the client does not take them.
pub struct Following {
    filter: Filter,
    /// Whether the client may still see anything.
    stands: Box<dyn Fn() -> Result<(), Rejection> + Send>,
    next: Option<Next>,
    ready: VecDeque<WatchResponse>,
    /// The cursor the client has.
    sent: Cursor,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _seat: OwnedSemaphorePermit,
}

impl Following {
    /// Makes responses of what passes, and a mark if nothing does.
    fn take(&mut self, watch: &Watch, batch: Batch) -> Result<(), WatchError> {
        for (cursor, line) in &batch.lines {
            if self.filter.passes(&line::read(line)?) {
                let event = Some(line::read(line)?);
                self.ready.push_back(WatchResponse { cursor: cursor.to_string(), event, caught_up: false });
                self.sent = *cursor;
            }
        }
        let seen = watch.cursor();
        match self.ready.back_mut() {
            Some(last) if self.sent == seen => last.caught_up = batch.caught_up,
            _ => {
                self.sent = seen;
                let mark = WatchResponse { cursor: seen.to_string(), event: None, caught_up: batch.caught_up };
                self.ready.push_back(mark);
            }
        }
        Ok(())
    }
}

impl Stream for Following {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(response) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            let Some(next_batch) = &mut this.next else { return Poll::Ready(None) };
            if this.closing.as_mut().poll(cx).is_ready() {
                this.next = None;
                return Poll::Ready(Some(Err(status::status(&Rejection::closing()))));
            }
            let (watch, batch) = ready!(next_batch.as_mut().poll(cx));
            this.next = None;
            if let Err(rejection) = (this.stands)() {
                return Poll::Ready(Some(Err(status::status(&rejection))));
            }
            if let Err(error) = batch.and_then(|batch| this.take(&watch, batch)) {
                return Poll::Ready(Some(Err(ended(error))));
            }
            this.next = Some(Box::pin(next(watch)));
        }
    }
}

/// Why a stream of events ends.
fn ended(error: WatchError) -> Status {
    match error {
        WatchError::Missed { oldest } => {
            let metadata = HashMap::from([("oldest_cursor".to_owned(), oldest.to_string())]);
            let text = "the event log does not reach back to this cursor: events were missed";
            status::with_info(Code::OutOfRange, text, "MISSED", metadata)
        }
        WatchError::Closed => status::status(&Rejection::closing()),
        WatchError::Read(why) => {
            tracing::error!(error = %why, "the event log cannot be read");
            status::status(&Rejection::trouble("the event log cannot be read"))
        }
    }
}

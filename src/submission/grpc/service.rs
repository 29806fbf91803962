//! The calls of `posthaste.v1.Submission`.

use std::sync::Arc;

use tonic::codegen::http::HeaderValue;
use tonic::codegen::http::request::Parts;
use tonic::{Request, Response, Status, Streaming};

use super::reading::Reading;
use super::stream::Submitting;
use super::v1::{self, submission_server::Submission};
use super::{Desk, Shared, status, translate};
use crate::access::Principal;
use crate::submission::door::Handover;
use crate::submission::rejection::Rejection;
use crate::submission::request::{ApiCircumstances, ContentNames, prepare_within};
use crate::submission::web::{Committing, Peer, Share, Standing, principal};

/// The Submission service.
pub(super) struct Calls<D> {
    shared: Arc<Shared<D>>,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    pub(super) peer: Arc<Peer>,
}

/// What a request's header says about who makes it.
pub(super) struct Seen {
    peer: Arc<Peer>,
    authorization: Option<HeaderValue>,
}

/// See [`Seen`].
pub(super) fn seen(parts: &Parts) -> Seen {
    let peer = parts.extensions.get::<Arc<Peer>>().cloned().unwrap_or_default();
    Seen { peer, authorization: parts.headers.get("authorization").cloned() }
}

impl<D: Desk> Calls<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Calls<D> {
        Calls { shared }
    }

    /// A rejection as the end of a call, counted.
    fn refuse(&self, rejection: &Rejection) -> Status {
        self.shared.refused(rejection);
        status::status(rejection)
    }
}

#[tonic::async_trait]
impl<D: Desk> Submission for Calls<D> {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::Receipt>, Status> {
        let caller = self.shared.caller(&request)?;
        // Holds the memory of what was read, and of copies, until the message is stored.
        let reading = request.extensions().get::<Arc<Reading>>().cloned();
        let share = reading.as_ref().map(|reading| &**reading.share());
        let taken = match self.shared.take(&caller, request.into_inner(), share) {
            Ok(taking) => taking.await,
            Err(rejection) => Err(rejection),
        };
        // Counted already.
        taken.map(|receipt| Response::new(translate::receipt(receipt))).map_err(|no| status::status(&no))
    }

    type SubmitStreamStream = Submitting<D>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Submitting<D>>, Status> {
        let caller = self.shared.caller(&request)?;
        let reading = request.extensions().get::<Arc<Reading>>().cloned();
        Ok(Response::new(Submitting::new(Arc::clone(&self.shared), caller, request.into_inner(), reading)))
    }

    async fn get_message(&self, request: Request<v1::GetMessageRequest>) -> Result<Response<v1::Message>, Status> {
        let caller = self.shared.caller(&request)?;
        let id = translate::message_id(&request.get_ref().message_id).map_err(|no| self.refuse(&no))?;
        let found = self.shared.desk.status(&caller.principal, id).await;
        // A look at what is not there is no submission refused.
        found.map(|found| Response::new(translate::message(found))).map_err(|no| status::status(&no))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let caller = self.shared.caller(&request)?;
        let what = translate::cancel(request.into_inner()).map_err(|no| self.refuse(&no))?;
        let cancelled = self.shared.desk.cancel(&caller.principal, what).await.map_err(|no| status::status(&no))?;
        let crate::submission::CancelReceipt { messages, recipients, in_flight } = cancelled;
        Ok(Response::new(v1::CancelResponse { messages, recipients, in_flight }))
    }
}

impl<D: Desk> Shared<D> {
    /// Who makes this call; [`authenticate`](Shared::authenticate) has found out.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let known = request.extensions().get::<Caller>().cloned();
        known.ok_or_else(|| self.refuse(&Rejection::unauthenticated("nobody asked who you are")))
    }

    /// Whether who makes a call, and goes on with it, may still do so.
    pub(super) fn stands(&self, standing: &mut Standing, caller: &Caller) -> Result<(), Rejection> {
        let standing = standing.check(self.desk.access(), &self.policy.load(), &caller.peer, &caller.principal);
        standing.inspect_err(|rejection| self.refused(rejection))
    }

    /// Who makes a call.
    pub(super) async fn authenticate(&self, seen: Seen) -> Result<Caller, Status> {
        let Seen { peer, authorization } = seen;
        let authorization = match authorization.as_ref().map(HeaderValue::to_str).transpose() {
            Ok(text) => text,
            Err(_) => return Err(self.refuse(&Rejection::unauthenticated("the authorization is no text"))),
        };
        let config = self.policy.load_full();
        let principal = principal(self.desk.access(), &config, &peer, authorization).await;
        Ok(Caller { principal: principal.map_err(|no| self.refuse(&no))?, peer })
    }

    fn refuse(&self, rejection: &Rejection) -> Status {
        self.refused(rejection);
        status::status(rejection)
    }

    /// Checks a request and hands it over; what is returned resolves when it is durable. The work has begun by then. The
    /// memory of personal copies is taken into `share`. What becomes of the request is counted here.
    ///
    /// # Errors
    /// It is refused, and counted as that.
    pub(super) fn take(
        &self,
        caller: &Caller,
        asked: v1::SubmitRequest,
        share: Option<&Share>,
    ) -> Result<Committing, Rejection> {
        let handover = self.prepare(caller, asked, share).inspect_err(|rejection| self.refused(rejection))?;
        let (accepting, counts) = (self.desk.accept(handover), self.counts.clone());
        Ok(Box::pin(async move {
            accepting.await.inspect(|receipt| counts.accepted(receipt)).inspect_err(|no| counts.refused(no))
        }))
    }

    fn prepare(&self, caller: &Caller, asked: v1::SubmitRequest, share: Option<&Share>) -> Result<Handover, Rejection> {
        self.desk.ready()?;
        let config = self.policy.load();
        let circumstances = ApiCircumstances {
            principal: Arc::clone(&caller.principal),
            client: caller.peer.address,
            protocol: if caller.peer.tls { "gRPCS" } else { "gRPC" },
            hostname: &self.hostname,
            now: self.clock.timestamp(),
            max_message_size: config.max_message_size.bytes(),
            recipients_max: config.recipients_max,
            memory_max: config.memory_max.bytes(),
            names: ContentNames { raw: "raw", parts: "parts." },
        };
        let (request, mut violations) = translate::request(asked);
        let room = |octets| share.is_none_or(|share| share.try_take(octets));
        match prepare_within(&*self.desk, request, &circumstances, room) {
            Ok(handover) if violations.is_empty() => Ok(handover),
            Ok(_) => Err(Rejection::violations(violations)),
            Err(rejection) if violations.is_empty() => Err(rejection),
            Err(mut rejection) => {
                // All that is wrong, at once.
                let content_missing = violations.iter().any(|violation| violation.field == "content");
                rejection.violations.retain(|violation| !(content_missing && violation.field.starts_with("parts")));
                violations.append(&mut rejection.violations);
                Err(Rejection::violations(violations))
            }
        }
    }
}

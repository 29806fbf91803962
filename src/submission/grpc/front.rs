//! What every request passes first: who sends it is known before anything of its body is read, the body gets its part of
//! the memory, and a refusal of tonic's becomes one of ours.
//!
//! Health and reflection answer everybody; what they read is a few hundred octets.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;
use tonic::codegen::http::request::Parts;
use tonic::service::Routes;

use super::events::Watching;
use super::health::Readiness;
use super::proto::DESCRIPTORS;
use super::reading::{Expected, Reading, Watched};
use super::service::{Caller, Calls};
use super::suppressions::Listing;
use super::v1::events_server::EventsServer;
use super::v1::submission_server::SubmissionServer;
use super::v1::suppressions_server::SuppressionsServer;
use super::{Desk, Shared, status};
use crate::config::GrpcConfig;
use crate::submission::web::Budget;

/// Room for a request's other fields above `max_message_size`: addresses, for most.
const FIELDS_MAX: usize = 4 << 20;

/// Octets of a request that anybody may make, and of one for events.
const SMALL_MAX: usize = 16 << 10;

/// Octets of a request with entries of the suppression list. An entry of two octets takes a hundred times as much in memory.
const SUPPRESSIONS_MAX: usize = 256 << 10;

/// Says who makes a request, by its header.
type Authenticate = Box<dyn Fn(&Parts) -> Pin<Box<dyn Future<Output = Result<Caller, Status>> + Send>> + Send + Sync>;

/// The services, and the memory they share.
pub(super) struct Front {
    routes: ArcSwap<Routes>,
    /// The same services with other limits.
    make_routes: Box<dyn Fn(&GrpcConfig) -> Routes + Send + Sync>,
    authenticate: Authenticate,
    recipients_max: AtomicUsize,
    budget: Arc<Budget>,
}

impl Front {
    pub(super) fn new<D: Desk>(shared: &Arc<Shared<D>>, budget: Arc<Budget>) -> Front {
        let serving = Arc::clone(shared);
        let make_routes = Box::new(move |config: &GrpcConfig| routes(&serving, config));
        let knowing = Arc::clone(shared);
        let authenticate: Authenticate = Box::new(move |parts: &Parts| {
            let (shared, seen) = (Arc::clone(&knowing), super::service::seen(parts));
            Box::pin(async move { shared.authenticate(seen).await })
        });
        let config = shared.policy.load();
        Front {
            routes: ArcSwap::from_pointee(make_routes(&config)),
            make_routes,
            authenticate,
            recipients_max: AtomicUsize::new(config.recipients_max),
            budget,
        }
    }

    /// All paths lead through [`handle`].
    pub(super) fn router(self: &Arc<Front>) -> Router {
        Router::new().fallback(handle).with_state(Arc::clone(self))
    }

    /// The memory of requests being received.
    #[cfg(test)]
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Puts the limits of `config` in force for new requests.
    pub(super) fn reload(&self, config: &GrpcConfig) {
        self.budget.set_max(config.memory_max.bytes());
        self.recipients_max.store(config.recipients_max, Ordering::Relaxed);
        self.routes.store(Arc::new((self.make_routes)(config)));
    }

    /// The request with its [`Caller`], and a body that is counted. Nothing of the body is read here.
    async fn admit(&self, request: Request) -> Result<Request, Status> {
        let path = request.uri().path();
        if !path.starts_with("/posthaste.") {
            return Ok(request);
        }
        let submits_many = path.ends_with(".Submission/SubmitStream");
        let stream = submits_many || path.ends_with(".Suppressions/Import");
        let submits = submits_many || path.ends_with(".Submission/Submit");
        let recipients_max = submits.then(|| self.recipients_max.load(Ordering::Relaxed));
        let (mut parts, body) = request.into_parts();
        let caller = (self.authenticate)(&parts).await?;
        let reading = Arc::new(Reading::new(&self.budget, Expected { stream, recipients_max }));
        parts.extensions.insert(caller);
        parts.extensions.insert(Arc::clone(&reading));
        Ok(Request::from_parts(parts, Body::new(Watched::new(body, reading))))
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("budget", &self.budget).finish_non_exhaustive()
    }
}

fn routes<D: Desk>(shared: &Arc<Shared<D>>, config: &GrpcConfig) -> Routes {
    // Not compressed: a few octets could become millions before anybody has counted them.
    let submission = SubmissionServer::new(Calls::new(Arc::clone(shared)))
        .max_decoding_message_size(config.max_message_size.bytes() + FIELDS_MAX);
    let events = EventsServer::new(Watching::new(Arc::clone(shared)))
        .max_decoding_message_size(SMALL_MAX)
        .send_compressed(CompressionEncoding::Gzip);
    let suppressions = SuppressionsServer::new(Listing::new(Arc::clone(shared)))
        .max_decoding_message_size(SUPPRESSIONS_MAX)
        .send_compressed(CompressionEncoding::Gzip);
    let health = tonic_health::pb::health_server::HealthServer::new(Readiness::new(Arc::clone(shared)))
        .max_decoding_message_size(SMALL_MAX);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = described().build_v1().expect("build.rs made these descriptors");
    let v1alpha = described().build_v1alpha().expect("build.rs made these descriptors");
    Routes::new(submission)
        .add_service(events)
        .add_service(suppressions)
        .add_service(health)
        .add_service(v1.max_decoding_message_size(SMALL_MAX))
        .add_service(v1alpha.max_decoding_message_size(SMALL_MAX))
        .prepare()
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    let request = match front.admit(request).await {
        Ok(request) => request,
        Err(status) => return status.into_http(),
    };
    let mut routes = Routes::clone(&front.routes.load());
    let response = match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    // A call that fails before there is anything to say has its status in the header.
    match Status::from_header_map(response.headers()).and_then(|status| status::in_our_words(&status)) {
        Some(status) => status.into_http(),
        None => response.map(Body::new),
    }
}

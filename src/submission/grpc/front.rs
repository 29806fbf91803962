//! What every request passes first: its body gets its part of the memory, and a refusal of tonic's becomes one of ours.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{BoxError, Router};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service;
use tonic::service::Routes;

use super::events::Watching;
use super::health::Readiness;
use super::proto::DESCRIPTORS;
use super::reading::Reading;
use super::service::Calls;
use super::v1::events_server::EventsServer;
use super::v1::submission_server::SubmissionServer;
use super::{Desk, Shared, status};
use crate::config::GrpcConfig;
use crate::submission::rejection::Rejection;
use crate::submission::web::{Budget, Metered};

/// Room for a request's other fields above `max_message_size`: addresses, for most.
const FIELDS_MAX: usize = 4 << 20;

/// The services, and the memory they share.
pub(super) struct Front {
    routes: ArcSwap<Routes>,
    /// The same services with other limits.
    make_routes: Box<dyn Fn(&GrpcConfig) -> Routes + Send + Sync>,
    budget: Arc<Budget>,
}

impl Front {
    pub(super) fn new<D: Desk>(shared: &Arc<Shared<D>>, budget: Arc<Budget>) -> Front {
        let serving = Arc::clone(shared);
        let make_routes = Box::new(move |config: &GrpcConfig| routes(&serving, config));
        Front { routes: ArcSwap::from_pointee(make_routes(&shared.policy.load())), make_routes, budget }
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
        self.routes.store(Arc::new((self.make_routes)(config)));
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("budget", &self.budget).finish_non_exhaustive()
    }
}

fn routes<D: Desk>(shared: &Arc<Shared<D>>, config: &GrpcConfig) -> Routes {
    let submission = SubmissionServer::new(Calls::new(Arc::clone(shared)))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(config.max_message_size.bytes() + FIELDS_MAX);
    let events = EventsServer::new(Watching::new(Arc::clone(shared)))
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let health = tonic_health::pb::health_server::HealthServer::new(Readiness::new(Arc::clone(shared)));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Routes::new(submission)
        .add_service(events)
        .add_service(health)
        .add_service(described().build_v1().expect("build.rs made these descriptors"))
        .add_service(described().build_v1alpha().expect("build.rs made these descriptors"))
        .prepare()
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    let reading = Arc::new(Reading::new(&front.budget));
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Arc::clone(&reading));
    let body = Metered::new(body, Arc::clone(reading.share()));
    let body = body.map_err(|error: BoxError| match error.downcast::<Rejection>() {
        Ok(rejection) => BoxError::from(status::status(&rejection)),
        Err(error) => error,
    });
    let body = body.map_frame(move |frame| {
        frame.map_data(|data| {
            reading.saw(&data);
            data
        })
    });
    let mut routes = Routes::clone(&front.routes.load());
    let request = Request::from_parts(parts, Body::new(body));
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

//! The standard health service: SERVING while new mail is taken.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Desk, Shared};

/// How often a watcher's answer is looked at anew. Readiness is computed when asked for; nothing is done while nobody
/// watches.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The services that have a health.
const SERVICES: [&str; 4] = ["", "posthaste.v1.Submission", "posthaste.v1.Events", "posthaste.v1.Suppressions"];

/// The health service.
pub(super) struct Readiness<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Desk> Readiness<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Readiness<D> {
        Readiness { shared }
    }
}

/// How a service is. Events are told, and the suppression list is kept, even while no mail is taken.
fn look<D: Desk>(shared: &Shared<D>, service: &str) -> ServingStatus {
    let ready = !shared.closing.is_cancelled() && (SERVICES[2..].contains(&service) || shared.desk.readiness().is_ok());
    match service {
        _ if !SERVICES.contains(&service) => ServingStatus::ServiceUnknown,
        _ if ready => ServingStatus::Serving,
        _ => ServingStatus::NotServing,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl<D: Desk> Health for Readiness<D> {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match look(&self.shared, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no such service")),
            status => Ok(Response::new(answer(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (shared, service) = (Arc::clone(&self.shared), request.into_inner().service);
        let mut told = None;
        let mut over = false;
        let ticks = IntervalStream::new(tokio::time::interval(LOOK_EVERY));
        let looks = ticks.map_while(move |_| {
            // The shutdown is told, and then the stream ends.
            if std::mem::replace(&mut over, shared.closing.is_cancelled()) {
                return None;
            }
            let status = look(&shared, &service);
            Some((told.replace(status) != Some(status)).then(|| Ok(answer(status))))
        });
        Ok(Response::new(Box::pin(looks.filter_map(|change| change))))
    }
}

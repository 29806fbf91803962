//! The way in for a fuzz target: bodies of JSON that operators send.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::orders::new_order;
use super::problem::{Asked, Problem};
use super::suppressions::SuppressionQuery;
use super::{
    AddRequest, CancelRequest, CredentialRequest, OrderRequest, RemoveRequest, ResumeRequest, RetryRequest,
    TenantRequest,
};
use crate::access::Tenant;
use crate::config::SuppressionConfig;
use crate::shaping::orders::Deed;
use crate::suppression::EntryText;

/// The body of an operator's request, after an octet that says of which.
///
/// What is wrong is told in a problem that is JSON, with fields that can be shown. What is taken is written so that it reads
/// the same, and so is the tenant that it makes.
pub fn admin(octets: &[u8]) {
    let Some((&kind, body)) = octets.split_first() else { return };
    match kind % 8 {
        0 => drop(asked::<RetryRequest>(body)),
        1 => drop(asked::<CancelRequest>(body)),
        2 => drop(asked::<CredentialRequest>(body)),
        3 => drop(asked::<ResumeRequest>(body)),
        4 => drop(asked::<RemoveRequest>(body)),
        5 => asked::<OrderRequest>(body).into_iter().for_each(order),
        6 => asked::<AddRequest>(body).into_iter().for_each(additions),
        _ => asked::<TenantRequest>(body).into_iter().for_each(tenant),
    }
}

/// What the body asks, read as a request's is.
fn asked<T: DeserializeOwned + Serialize + Send + 'static>(body: &[u8]) -> Option<T> {
    let request = Request::post("/").header(CONTENT_TYPE, "application/json").body(Body::from(body.to_vec()));
    let request = request.expect("a request");
    match wait(Asked::<T>::from_request(request, &())) {
        Ok(Asked(asked)) => {
            let written = serde_json::to_string(&asked).expect("plain data");
            let again: T = serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
            assert_eq!(serde_json::to_string(&again).ok().as_deref(), Some(&*written));
            Some(asked)
        }
        Err(problem) => {
            check_problem(problem);
            None
        }
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn check_problem(problem: Problem) {
    let response = problem.into_response();
    assert!(response.status().is_client_error(), "{}", response.status());
    let body = wait(response.into_body().collect()).expect("it is there").to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
    for violation in body["violations"].as_array().into_iter().flatten() {
        let field = violation["field"].as_str().unwrap_or_default();
        assert!(!field.is_empty() && !field.chars().any(char::is_control), "{field:?}");
    }
}

fn order(request: OrderRequest) {
    match new_order(request.clone()) {
        Ok(order) => {
            assert_eq!(order.deed.as_str(), request.deed);
            assert!(matches!(order.deed, Deed::Pace { .. }) == request.per_second.is_some() && !order.by.is_empty());
        }
        Err(problem) => check_problem(problem),
    }
}

fn additions(request: AddRequest) {
    let rules = SuppressionConfig::default();
    let defaults = SuppressionQuery::default().defaults().expect("nothing is asked");
    for text in request.entries.iter().take(100) {
        if let Ok(entry) = text.entry(&defaults, &rules) {
            let shown = EntryText::of(&entry);
            assert_eq!(shown.entry(&defaults, &rules).as_ref(), Ok(&entry), "{shown:?}");
        }
    }
}

fn tenant(request: TenantRequest) {
    let mut tenant = Tenant { name: request.name.clone().unwrap_or_default(), ..Tenant::default() };
    let (change, problems) = request.read();
    assert!(problems.iter().all(|problem| !problem.field.is_empty() && !problem.why.is_empty()));
    change.apply(&mut tenant);
    if problems.is_empty() && tenant.problems().is_empty() {
        let written = serde_json::to_string(&tenant).expect("plain data");
        assert_eq!(serde_json::from_str::<Tenant>(&written).ok().as_ref(), Some(&tenant), "{written}");
    }
}

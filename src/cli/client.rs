//! Asks the running daemon: one HTTP request to its admin surface.

use anyhow::{Context, anyhow};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::ConfigArgument;
use crate::config::Config;

/// What is sent: all at once, or as it comes.
type Sent = BoxBody<Bytes, std::io::Error>;

/// Sends `body` as JSON, if any, and reads the JSON answer.
pub(super) async fn ask<T: DeserializeOwned>(
    config: &Config,
    arguments: &ConfigArgument,
    method: Method,
    path: &str,
    body: Option<String>,
) -> anyhow::Result<T> {
    let (status, answer) = send(config, arguments, method, path, body).await?;
    read(status, &answer)
}

/// What is there; `None`: nothing, says the daemon.
pub(super) async fn find<T: DeserializeOwned>(
    config: &Config,
    arguments: &ConfigArgument,
    path: &str,
) -> anyhow::Result<Option<T>> {
    match send(config, arguments, Method::GET, path, None).await? {
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (status, answer) => read(status, &answer).map(Some),
    }
}

async fn send(
    config: &Config,
    arguments: &ConfigArgument,
    method: Method,
    path: &str,
    body: Option<String>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let body = Full::new(Bytes::from(body.unwrap_or_default())).map_err(|never| match never {}).boxed();
    let (status, answer) = exchange(config, arguments, method, path, body).await?;
    Ok((status, collect(answer).await?))
}

/// Sends `body` as it comes; the answer is read as it comes too, unless it is a refusal.
pub(super) async fn stream(
    config: &Config,
    arguments: &ConfigArgument,
    method: Method,
    path: &str,
    body: Sent,
) -> anyhow::Result<Incoming> {
    let (status, answer) = exchange(config, arguments, method, path, body).await?;
    match status.is_success() {
        true => Ok(answer),
        false => Err(refusal(status, &collect(answer).await?)),
    }
}

/// All of an answer.
pub(super) async fn collect(answer: Incoming) -> anyhow::Result<Bytes> {
    Ok(answer.collect().await.context("the answer broke off")?.to_bytes())
}

async fn exchange(
    config: &Config,
    arguments: &ConfigArgument,
    method: Method,
    path: &str,
    body: Sent,
) -> anyhow::Result<(StatusCode, Incoming)> {
    let address = config.admin.listen;
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!("no daemon answers at {address} (admin.listen in {}); is it running?", arguments.config.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(body)?;
    let response = sender.send_request(request).await?;
    Ok((response.status(), response.into_body()))
}

fn read<T: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> anyhow::Result<T> {
    if !status.is_success() {
        return Err(refusal(status, answer));
    }
    serde_json::from_slice(answer).context("the daemon's answer makes no sense; is it of another version?")
}

fn refusal(status: StatusCode, answer: &[u8]) -> anyhow::Error {
    let problem: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
    match problem.as_ref().and_then(|p| p.get("detail")?.as_str()) {
        Some(detail) => anyhow!("{detail}"),
        None => anyhow!("the daemon answered {status}: {}", String::from_utf8_lossy(answer).trim()),
    }
}

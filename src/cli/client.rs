//! Asks the running daemon: one HTTP request to its admin surface.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::ConfigArgument;
use crate::config::Config;

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
    let address = config.admin.listen;
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!("no daemon answers at {address} (admin.listen in {}); is it running?", arguments.config.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, answer))
}

fn read<T: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> anyhow::Result<T> {
    if !status.is_success() {
        let problem: Option<serde_json::Value> = serde_json::from_slice(answer).ok();
        match problem.as_ref().and_then(|p| p.get("detail")?.as_str()) {
            Some(detail) => bail!("{detail}"),
            None => bail!("the daemon answered {status}: {}", String::from_utf8_lossy(answer).trim()),
        }
    }
    serde_json::from_slice(answer).context("the daemon's answer makes no sense; is it of another version?")
}

//! Who may, how much, and when not.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::super::v1::submission_client::SubmissionClient;
use super::super::v1::submit_result::Result as Outcome;
use super::{PATIENCE, World, check_status, raw, until, v1};
use crate::config::ByteSize;
use crate::submission::rejection::Rejection;

#[tokio::test]
async fn a_stranger_is_told_to_say_who_it_is() {
    let world = World::start(|config| config.trusted_networks.clear()).await;
    let status = world.client().submit(raw("a@them.test", 100)).await.unwrap_err();
    assert_eq!(check_status(&status, Code::Unauthenticated).reason, "UNAUTHENTICATED");
    let status = world.client().submit_stream(tokio_stream::iter([raw("a@them.test", 100)])).await.unwrap_err();
    check_status(&status, Code::Unauthenticated);
    let status = world.events_client().watch(v1::WatchRequest::default()).await.unwrap_err();
    check_status(&status, Code::Unauthenticated);
    assert!(world.book.stored().is_empty());
    assert_eq!(world.refused("unauthenticated"), 3);
    // The networks are those in force, also for connections that are open.
    let mut config = world.config.clone();
    config.trusted_networks = vec!["127.0.0.0/8".parse().unwrap()];
    world.grpc.reload(&config, None);
    world.client().submit(raw("a@them.test", 100)).await.unwrap();
}

#[tokio::test]
async fn a_token_names_the_tenant_and_a_wrong_one_is_refused_even_here() {
    let world = World::start(|_| {}).await;
    let tenant = crate::access::Tenant { name: "shop".into(), ..crate::access::Tenant::default() };
    world.book.access().create(tenant).await.unwrap();
    let issued = world.book.access().issue("shop", crate::access::NewCredential::default()).await.unwrap();
    let with = |authorization: String| {
        let mut request = Request::new(raw("a@them.test", 100));
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
        request
    };
    world.client().submit(with(format!("Bearer {}", issued.token))).await.unwrap();
    assert_eq!(world.book.stored()[0].principal.tenant.as_ref().unwrap().name, "shop");
    for wrong in ["Bearer nonsense", "nonsense", "Basic !!!"] {
        let status = world.client().submit(with(wrong.into())).await.unwrap_err();
        check_status(&status, Code::Unauthenticated);
    }
    let mut asked = Request::new(v1::WatchRequest { tenant: "other".into(), ..v1::WatchRequest::default() });
    asked.metadata_mut().insert("authorization", format!("Bearer {}", issued.token).parse().unwrap());
    let status = world.events_client().watch(asked).await.unwrap_err();
    assert_eq!(check_status(&status, Code::PermissionDenied).fields, ["tenant"]);
}

#[tokio::test]
async fn what_is_too_large_is_not_to_be_tried_again() {
    let world = World::start(|config| config.max_message_size = ByteSize(100_000)).await;
    world.client().submit(raw("a@them.test", 90_000)).await.unwrap();
    // A little, and more than would be read.
    for size in [110_000, 8 << 20] {
        let status = world.client().submit(raw("a@them.test", size)).await.unwrap_err();
        assert_eq!(check_status(&status, Code::InvalidArgument).reason, "TOO_LARGE", "{size}");
        let requests = [raw("a@them.test", 100), raw("a@them.test", size)];
        let mut results = world.client().submit_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
        assert!(matches!(results.next().await.unwrap().unwrap().result, Some(Outcome::Receipt(_))));
        match results.next().await.unwrap() {
            Ok(one) => assert!(matches!(one.result, Some(Outcome::Error(_)))),
            Err(status) => assert_eq!(check_status(&status, Code::InvalidArgument).reason, "TOO_LARGE"),
        }
    }
    // Compressed, it would be small; what it becomes nobody could foresee.
    let mut client = world.client().send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let status = client.submit(raw("a@them.test", 64 << 20)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(world.book.stored().len(), 3);
    // Reloaded, there is room.
    let mut config = world.config.clone();
    config.max_message_size = ByteSize(20 << 20);
    world.grpc.reload(&config, None);
    world.client().submit(raw("a@them.test", 8 << 20)).await.unwrap();
}

/// A body of one call, from somebody with this authorization, whose octets nobody wants; how many were taken.
async fn taken_of(world: &World, path: &str, authorization: &str) -> (Code, usize) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let taken = std::sync::Arc::new(AtomicUsize::new(0));
    let counting = std::sync::Arc::clone(&taken);
    let octets = tokio_stream::iter((0..64).map(move |_| {
        counting.fetch_add(1 << 20, Ordering::Relaxed);
        Ok::<_, std::io::Error>(bytes::Bytes::from(vec![0; 1 << 20]))
    }));
    let request = axum::http::Request::post(format!("http://{}{path}", world.grpc.local_addrs()[0]))
        .header("content-type", "application/grpc")
        .header("authorization", authorization)
        .body(tonic::body::Body::new(axum::body::Body::from_stream(octets)))
        .unwrap();
    let mut channel = world.channel.clone();
    std::future::poll_fn(|cx| tonic::codegen::Service::poll_ready(&mut channel, cx)).await.unwrap();
    let response = tonic::codegen::Service::call(&mut channel, request).await.unwrap();
    let status = Status::from_header_map(response.headers()).expect("a status at once");
    (status.code(), taken.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_strangers_body_is_not_read() {
    let world = World::start(|_| {}).await;
    for path in
        ["/posthaste.v1.Submission/Submit", "/posthaste.v1.Submission/SubmitStream", "/posthaste.v1.Events/Watch"]
    {
        let (code, taken) = taken_of(&world, path, "Bearer nonsense").await;
        assert_eq!(code, Code::Unauthenticated, "{path}");
        // What the window lets through, and no more.
        assert!(taken <= 16 << 20, "{taken} octets");
        assert_eq!(world.grpc.front.budget().used(), 0);
    }
}

#[tokio::test]
async fn what_would_grow_in_memory_is_not_decoded() {
    let world = World::start(|config| config.recipients_max = 10).await;
    let submit = |recipients| v1::SubmitRequest { recipients: vec![String::new(); recipients], ..raw("", 100) };
    let status = world.client().submit(submit(1_000_000)).await.unwrap_err();
    assert_eq!(check_status(&status, Code::InvalidArgument).fields, ["recipients"]);
    let mut results = world.client().submit_stream(tokio_stream::iter([submit(41)])).await.unwrap().into_inner();
    let status = results.next().await.unwrap().unwrap_err();
    assert_eq!(check_status(&status, Code::InvalidArgument).fields, ["recipients"]);
    // A little more is a request like any other, with a result in its place.
    let mut results = world.client().submit_stream(tokio_stream::iter([submit(40)])).await.unwrap().into_inner();
    let one = results.next().await.unwrap().unwrap();
    assert!(matches!(one.result, Some(Outcome::Error(_))), "{one:?}");
    assert!(world.book.stored().is_empty());
}

#[tokio::test]
async fn a_stream_waits_for_memory_and_goes_on() {
    let world = World::start(|config| {
        config.memory_max = ByteSize(1 << 20);
        config.max_message_size = ByteSize(200_000);
    })
    .await;
    world.book.allow(0);
    let requests = tokio_stream::iter((0..100).map(|n| raw(&format!("u{n}@them.test"), 100_000)));
    let mut results = world.client().submit_stream(requests).await.unwrap().into_inner();
    until("memory in use", || world.book.begun() >= 8).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (begun, used) = (world.book.begun(), world.grpc.front.budget().used());
    assert!(begun <= 12 && used <= 3 << 19, "{begun} begun, {used} octets");
    world.book.allow(u64::MAX);
    for n in 0..100 {
        let one = tokio::time::timeout(PATIENCE, results.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(one.index, n);
        assert!(matches!(one.result, Some(Outcome::Receipt(_))), "{one:?}");
    }
    assert!(results.next().await.is_none());
    until("memory free", || world.grpc.front.budget().used() == 0).await;
}

#[tokio::test]
async fn who_is_known_no_more_loses_what_is_open() {
    let world = World::start(|_| {}).await;
    let tenant = crate::access::Tenant { name: "shop".into(), ..crate::access::Tenant::default() };
    world.book.access().create(tenant).await.unwrap();
    let issued = world.book.access().issue("shop", crate::access::NewCredential::default()).await.unwrap();
    let mut asked = Request::new(v1::WatchRequest::default());
    asked.metadata_mut().insert("authorization", format!("Bearer {}", issued.token).parse().unwrap());
    let mut watching = world.events_client().watch(asked).await.unwrap().into_inner();
    assert!(watching.next().await.unwrap().unwrap().caught_up);
    let (sender, requests) = tokio::sync::mpsc::channel(10);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut results = world.client().submit_stream(requests).await.unwrap().into_inner();
    sender.send(raw("a@them.test", 100)).await.unwrap();
    assert!(matches!(results.next().await.unwrap().unwrap().result, Some(Outcome::Receipt(_))));
    // The token is revoked, and the network trusted no more.
    world.book.access().remove("shop").await.unwrap();
    let mut config = world.config.clone();
    config.trusted_networks.clear();
    world.grpc.reload(&config, None);
    // A stream is looked at every two seconds.
    let mut accepted = 1;
    let refused = loop {
        sender.send(raw("a@them.test", 100)).await.unwrap();
        match tokio::time::timeout(PATIENCE, results.next()).await.unwrap().unwrap().unwrap().result {
            Some(Outcome::Receipt(_)) => accepted += 1,
            other => break other,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(matches!(refused, Some(Outcome::Error(status)) if status.code == Code::Unauthenticated as i32));
    super::streams::write(&world, 1, "delivered", "shop", "spring");
    let status = watching.next().await.unwrap().unwrap_err();
    check_status(&status, Code::Unauthenticated);
    assert_eq!(world.book.stored().len(), accepted);
}

#[tokio::test]
async fn a_reload_makes_no_new_seats_for_watchers_and_kinds_are_few() {
    let world = World::start(|_| {}).await;
    let mut watching = Vec::new();
    for _ in 0..super::super::events::WATCHERS_MAX {
        watching.push(world.events_client().watch(v1::WatchRequest::default()).await.unwrap());
    }
    world.grpc.reload(&world.config, None);
    let status = world.events_client().watch(v1::WatchRequest::default()).await.unwrap_err();
    check_status(&status, Code::ResourceExhausted);
    let asked = v1::WatchRequest { kinds: vec![99; 1000], ..v1::WatchRequest::default() };
    let status = world.events_client().watch(asked).await.unwrap_err();
    assert_eq!(check_status(&status, Code::InvalidArgument).fields.len(), 17);
}

#[tokio::test]
async fn a_call_that_finds_no_memory_is_told_when_to_come_back() {
    let world = World::start(|config| {
        config.memory_max = ByteSize(300_000);
        config.max_message_size = ByteSize(200_000);
    })
    .await;
    world.book.allow(0);
    let mut first = world.client();
    let holding = tokio::spawn(async move { first.submit(raw("a@them.test", 190_000)).await });
    until("one begun", || world.book.begun() == 1).await;
    let status = world.client().submit(raw("b@them.test", 190_000)).await.unwrap_err();
    let details = check_status(&status, Code::ResourceExhausted);
    assert!(details.retry_after.is_some() && details.reason == "FULL", "{details:?}");
    // What is small still goes in.
    world.book.allow(u64::MAX);
    world.client().submit(raw("c@them.test", 1000)).await.unwrap();
    holding.await.unwrap().unwrap();
}

#[tokio::test]
async fn personal_copies_take_their_memory() {
    let world = World::start(|config| {
        config.memory_max = ByteSize(1 << 20);
        config.max_message_size = ByteSize(200_000);
    })
    .await;
    world.book.allow(0);
    let personal = |copies: usize| {
        let recipients = (0..copies).map(|n| format!("u{n}@them.test")).collect();
        v1::SubmitRequest { recipients, personal: true, ..raw("", 100_000) }
    };
    let mut first = world.client();
    let holding = tokio::spawn(async move { first.submit(personal(7)).await });
    until("one begun", || world.book.begun() == 1).await;
    let used = world.grpc.front.budget().used();
    assert!(used >= 800_000, "{used} octets for what was read and seven copies");
    // The copies of a second one have no room, by call or by stream.
    let status = world.client().submit(personal(3)).await.unwrap_err();
    assert!(check_status(&status, Code::ResourceExhausted).retry_after.is_some());
    let mut results = world.client().submit_stream(tokio_stream::iter([personal(3)])).await.unwrap().into_inner();
    match results.next().await.unwrap().unwrap().result {
        Some(Outcome::Error(status)) => assert_eq!(status.code, Code::ResourceExhausted as i32),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.refused("full"), 2);
    world.book.allow(u64::MAX);
    holding.await.unwrap().unwrap();
    let mut results = world.client().submit_stream(tokio_stream::iter([personal(7)])).await.unwrap().into_inner();
    assert!(matches!(results.next().await.unwrap().unwrap().result, Some(Outcome::Receipt(_))));
    until("memory free", || world.grpc.front.budget().used() == 0).await;
}

#[tokio::test]
async fn a_stream_whose_results_nobody_takes_is_given_up() {
    let world = World::start(|config| config.unread_timeout = Duration::from_millis(400)).await;
    // Not even one result fits into the window of this client.
    let endpoint = Endpoint::from_shared(format!("http://{}", world.grpc.local_addrs()[0])).unwrap();
    let channel = endpoint.initial_stream_window_size(1).connect().await.unwrap();
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let results = SubmissionClient::new(channel).submit_stream(requests).await.unwrap();
    // It writes as long as somebody takes that.
    let writing = tokio::spawn(async move { while sender.send(raw("a@them.test", 100_000)).await.is_ok() {} });
    until("given up", || world.refused("unread") == 1).await;
    until("memory free", || world.grpc.front.budget().used() == 0).await;
    // The connection is good, and what was taken is.
    assert!(!world.book.stored().is_empty());
    let mut results = results.into_inner();
    let ended = async {
        loop {
            match results.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    writing.abort();
}

#[tokio::test]
async fn health_follows_readiness() {
    let world = World::start(|_| {}).await;
    let mut client = HealthClient::new(world.channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watching = client.watch(ask("posthaste.v1.Submission")).await.unwrap().into_inner();
    let next = watching.next().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::Serving);
    world.book.refuse(Some(Rejection::full("the spool is read-only")));
    for (service, expected) in [
        ("", ServingStatus::NotServing),
        ("posthaste.v1.Submission", ServingStatus::NotServing),
        ("posthaste.v1.Events", ServingStatus::Serving),
        ("posthaste.v1.Suppressions", ServingStatus::Serving),
    ] {
        assert_eq!(client.check(ask(service)).await.unwrap().into_inner().status(), expected, "{service}");
    }
    assert_eq!(client.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    let status = world.client().submit(raw("a@them.test", 100)).await.unwrap_err();
    assert!(check_status(&status, Code::ResourceExhausted).retry_after.is_some());
    assert_eq!(watching.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    world.book.refuse(None);
    assert_eq!(watching.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(client.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
}

//! What a key stands for, and how long.

use super::*;

#[test]
fn what_a_request_says_is_in_its_fingerprint() {
    type Change<'a> = &'a dyn Fn(&mut Request, &mut Parts);
    let with = |change: Change<'_>| {
        let mut parts = Parts {
            from: Some(mailbox("a@b.example")),
            to: vec![mailbox("c@d.example")],
            text: Some("t".into()),
            attachments: vec![Attachment { content: Bytes::from_static(b"x"), ..Attachment::default() }],
            ..Parts::default()
        };
        let mut request = Request { idempotency_key: Some("k".into()), ..Request::default() };
        change(&mut request, &mut parts);
        request.content = RequestContent::Parts(Box::new(parts));
        prepared(request).expect("good").messages[0].envelope.key.clone().expect("given").fingerprint
    };
    let changes: [Change<'_>; 15] = [
        &|_, _| {},
        &|request, _| request.campaign = Some("c".into()),
        &|request, _| request.tenant = Some("c".into()),
        &|request, _| request.class = Some("bulk".into()),
        &|request, _| request.tags = texts(&["c"]),
        &|request, _| request.personal = true,
        &|request, _| request.sender = Some("z@b.example".into()),
        &|request, _| request.expires_at = Some(When::Text("1h".into())),
        &|_, parts| parts.subject = Some(String::new()),
        &|_, parts| parts.text = Some("u".into()),
        &|_, parts| parts.html = Some("t".into()),
        &|_, parts| parts.cc = vec![mailbox("e@d.example")],
        &|_, parts| parts.to[0].name = Some("C".into()),
        &|_, parts| parts.headers = vec![("X-A".into(), "b".into())],
        &|_, parts| parts.attachments[0].content = Bytes::from_static(b"y"),
    ];
    let prints: std::collections::HashSet<_> = changes.iter().map(|change| with(*change)).collect();
    assert_eq!(prints.len(), changes.len());
    let message_id = with(&|_, parts| parts.headers = vec![("Message-ID".into(), "<x@y>".into())]);
    assert!(prints.contains(&message_id));
    let until = |when: When| with(&move |request, _| request.expires_at = Some(when.clone()));
    let one = until(When::At(NOW.after(Duration::from_secs(3600))));
    assert_eq!(until(When::Text("2026-11-22T14:00:00+01:00".into())), one, "another spelling of the time");
    assert_ne!(until(When::At(NOW.after(Duration::from_secs(3601)))), one);
}

#[test]
fn what_goes_without_saying_is_the_same_said() {
    let tenant = Tenant { name: "shop".into(), ..Tenant::default() };
    let how = How::Credential("c".into());
    let shop = Arc::new(Principal { tenant: Some(Arc::new(tenant)), how });
    let with = |tenant: Option<&str>, class: Option<&str>| {
        let request = Request {
            tenant: tenant.map(str::to_owned),
            class: class.map(str::to_owned),
            idempotency_key: Some("k".into()),
            ..parts(|_| {})
        };
        let handover = prepared_for(Arc::clone(&shop), request, |_| true).expect("good");
        handover.messages[0].envelope.key.clone().expect("given").fingerprint
    };
    let first = with(None, None);
    assert_eq!((with(Some("shop"), None), with(None, Some("Transactional"))), (first, first));
    assert!(with(None, Some("bulk")) != first && with(Some("other"), None) != first);
}

#[test]
fn with_a_key_times_are_wrong_only_for_what_is_new() {
    let passed = |key: Option<&str>, subject: &str| Request {
        expires_at: Some(When::At(NOW)),
        idempotency_key: key.map(str::to_owned),
        ..parts(|parts| parts.subject = Some(subject.into()))
    };
    let told = |rejection: &Rejection| rejection.violations.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(prepared(passed(None, "s")).map_err(|r| told(&r)).err(), Some(vec!["expires_at: has passed".into()]));
    let handover = prepared(passed(Some("k"), "s")).expect("perhaps it is known");
    assert_eq!(handover.overdue.as_deref().map(told), Some(vec!["expires_at: has passed".into()]));
    let other = prepared(passed(Some("k"), "\n")).expect_err("that is wrong in any case");
    assert_eq!(other.violations.len(), 2);
    let raw = |key: Option<&str>| Request {
        idempotency_key: key.map(str::to_owned),
        ..raw("From: a@b.example\r\nX-Posthaste-Expires: 2026-11-22T11:00:00Z\r\n\r\n")
    };
    assert!(prepared(raw(None)).expect_err("passed").reply.text.contains("has passed"));
    assert!(prepared(raw(Some("k"))).expect("perhaps it is known").overdue.is_some());
}

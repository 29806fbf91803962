"""gRPC as Python's grpcio speaks it, knowing nothing but what reflection tells it."""

import email
import email.policy
import itertools
import os
import threading

import grpc
import peers
import pytest
from conftest import relay, tenant
from google.protobuf import descriptor_pb2
from grpc_client import Client, fails
from grpc_health.v1 import health_pb2, health_pb2_grpc

FROM = {"address": "orders@shop.test", "name": "The shöp"}


@pytest.fixture
def connect(stack):
    """`connect(target, ...)`: a client that ends with the test."""

    def connect(target, **options):
        target = target if isinstance(target, str) else f"127.0.0.1:{target.grpc}"
        client = Client(target, **options)
        stack.callback(client.close)
        return client

    return connect


@pytest.fixture
def door(start, sink, connect):
    """A daemon that relays to a sink, the sink, a client."""
    target = sink()
    daemon = start(relay(target))
    return daemon, target, connect(daemon)


def parts(to="a@them.test", **fields):
    return {"from": FROM, "to": [{"address": to}], "subject": "hello", "text": "hello\n", **fields}


def test_reflection_tells_all(door):
    _, _, client = door
    services = set(client.database.get_services())
    assert {"posthaste.v1.Submission", "posthaste.v1.Events", "grpc.health.v1.Health"} <= services
    file = descriptor_pb2.FileDescriptorProto()
    client.pool.FindFileContainingSymbol("posthaste.v1.Submission").CopyToProto(file)
    assert {method.name for method in file.service[0].method} == {"Submit", "SubmitStream", "GetMessage", "Cancel"}


def test_parts_become_mail(door):
    daemon, target, client = door
    receipt = client.submit(
        **{"class": 2}, campaign="spring", tags=["one", "two"],
        parts=parts(
            to="zoë@them.test", cc=[{"address": "cc@them.test", "name": "Bjørn, Jr."}], bcc=[{"address": "bcc@them.test"}],
            reply_to=[{"address": "help@shop.test"}], subject="Grüße " * 20, text="Grüße\n", html="<p>Grüße<img src='cid:l'>",
            headers=[{"name": "List-Unsubscribe", "value": "<https://shop.test/u>"}],
            attachments=[
                {"file_name": "Zoë.pdf", "content_type": "application/pdf", "content": b"\0pdf\r\n.\r\n" * 300},
                {"file_name": "l.png", "content_type": "image/png", "content": b"png", "content_id": "l", "inline": True},
            ],
        ),
    )
    ends = daemon.wait_terminal(["zoë@them.test", "cc@them.test", "bcc@them.test"])
    assert {end["event"] for end in ends.values()} == {"delivered"}
    event = ends["cc@them.test"]
    assert (event["message_id"], event["campaign"], event["class"]) == (receipt.message_id, "spring", "bulk")
    assert event["tags"] == ["one", "two"]
    content = target.wait(1)[0].content
    assert b"bcc@them.test" not in content
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["From"].addresses[0].display_name == "The shöp"
    assert message["Subject"] == ("Grüße " * 20).strip()
    assert message["Cc"].addresses[0].display_name == "Bjørn, Jr."
    assert message["Reply-To"] == "help@shop.test" and message["List-Unsubscribe"] == "<https://shop.test/u>"
    assert message["Message-ID"] and message["Date"]
    assert message.get_body(("plain",)).get_content().strip() == "Grüße"
    assert "Grüße" in message.get_body(("html",)).get_content()
    files = {part.get_filename(): part for part in message.walk() if part.get_filename()}
    assert files["Zoë.pdf"].get_content() == b"\0pdf\r\n.\r\n" * 300
    assert files["l.png"]["Content-ID"] == "<l>" and files["l.png"].get_content_disposition() == "inline"


def test_raw_goes_as_it_is(door):
    _, target, client = door
    body = b"Subject: raw\nFrom: orders@shop.test\n\none\n.\n..two\n" + "Grüße\n".encode()
    receipt = client.submit(raw=body, recipients=["a@them.test", "b@them.test"], sender="bounces@shop.test")
    mail = target.wait(1)[0]
    assert mail.sender == "bounces@shop.test" and sorted(mail.recipients) == ["a@them.test", "b@them.test"]
    assert mail.content.endswith(b"\r\n\r\none\r\n.\r\n..two\r\n" + "Grüße\r\n".encode())
    assert receipt.message_id in mail.content.decode(), "Received has the id"


def test_personal_is_one_message_each(door):
    daemon, target, client = door
    to = [{"address": f"u{n}@them.test", "name": f"User {n}"} for n in range(20)]
    receipt = client.submit(personal=True, parts={"from": FROM, "to": to, "subject": "x", "text": "x"})
    assert len(receipt.message_ids) == 20 and receipt.message_ids[0] == receipt.message_id
    ends = daemon.wait_terminal([each["address"] for each in to])
    assert [ends[each["address"]]["message_id"] for each in to] == list(receipt.message_ids)
    for mail in target.wait(20):
        assert email.message_from_bytes(mail.content)["To"].count("@") == 1
        assert mail.recipients[0] in email.message_from_bytes(mail.content)["To"]


def test_stream_answers_in_order(door):
    daemon, target, client = door
    count = 500
    bad = {7, 250, 499}

    def requests():
        for n in range(count):
            to = "nobody at all" if n in bad else f"u{n}@them.test"
            yield client.request(raw=b"From: orders@shop.test\r\nSubject: %d\r\n\r\nx\r\n" % n, recipients=[to],
                                 idempotency_key=f"batch-1/{n}", tags=[str(n)])

    stream = client.method("Submission", "SubmitStream")
    results = list(stream(requests()))
    assert [result.index for result in results] == list(range(count))
    assert {result.index for result in results if result.WhichOneof("result") == "error"} == bad
    for n in bad:
        assert results[n].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        violations = client.unpack(results[n].error)["BadRequest"].field_violations
        assert [violation.field for violation in violations] == ["recipients[0]"]
    ids = [result.receipt.message_id for result in results if result.index not in bad]
    assert len(set(ids)) == count - len(bad)
    ends = daemon.wait_terminal([f"u{n}@them.test" for n in range(count) if n not in bad])
    assert all(ends[f"u{n}@them.test"]["tags"] == [str(n)] for n in range(count) if n not in bad)
    # All of it again: nothing is sent twice.
    again = list(stream(requests()))
    assert all(result.receipt.replayed for result in again if result.index not in bad)
    assert [result.receipt.message_id for result in again if result.index not in bad] == ids
    assert len(target.mails) == len({r for mail in target.mails for r in mail.recipients})


def test_stream_is_a_dialogue(door):
    _, _, client = door
    go_on = threading.Semaphore(1)

    def requests():
        for n in itertools.count():
            go_on.acquire()
            yield client.request(parts=parts(f"u{n}@them.test"))

    results = client.method("Submission", "SubmitStream")(requests())
    for n, result in enumerate(itertools.islice(results, 5)):
        assert result.index == n and result.receipt.message_id, "the receipt comes while the stream is open"
        go_on.release()
    results.cancel()


@pytest.mark.parametrize(("fields", "field"), [
    ({"recipients": ["a@them.test"]}, "content"),
    ({"raw": b"", "recipients": ["a@them.test"]}, "raw"),
    ({"raw": b"From: a@shop.test\r\n\r\nx"}, "recipients"),
    ({"raw": b"Subject: x\r\n\r\nx", "recipients": ["a@them.test"]}, "sender"),
    ({"raw": b"From: a@shop.test\r\n\r\nx", "recipients": ["a@them.test", "b"]}, "recipients[1]"),
    ({"parts": {"to": [{"address": "a@them.test"}], "text": "x"}}, "parts.from"),
    ({"parts": parts(subject="a\r\nBcc: evil@them.test")}, "parts.subject"),
    ({"parts": parts(headers=[{"name": "Bad Name", "value": "x"}])}, 'parts.headers["Bad Name"]'),
    ({"parts": parts(headers=[{"name": "X-Good", "value": "x\ny"}])}, 'parts.headers["X-Good"]'),
    ({"parts": parts(to="a@-bad-.test")}, "parts.to[0]"),
    ({"parts": parts(attachments=[{"content_type": "what"}])}, "parts.attachments[0].content_type"),
    ({"parts": parts(), "idempotency_key": "with space"}, "idempotency_key"),
    ({"parts": parts(), "campaign": "x" * 129}, "campaign"),
    ({"parts": parts(), "class": 9}, "class"),
    ({"parts": parts(), "class": 3}, "class"),
    ({"parts": parts(), "tags": ["a", ""]}, "tags[1]"),
    ({"parts": parts(), "sender": "nobody"}, "sender"),
    ({"parts": parts(), "expires_at": {"seconds": 1}}, "expires_at"),
    ({"parts": parts(), "not_before": {"seconds": 1 << 40}}, "not_before"),
    ({"parts": parts(), "envid": "x" * 101}, "envid"),
])
def test_bad_fields_are_named(shared, fields, field):
    daemon, client = shared
    with fails(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        client.submit(**fields)
    details = client.details(caught.error)
    assert [violation.field for violation in details["BadRequest"].field_violations] == [field]
    assert all(violation.description for violation in details["BadRequest"].field_violations)
    assert details["ErrorInfo"].reason == "INVALID" and details["ErrorInfo"].domain == "posthaste"
    assert not daemon.events()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A daemon for tests that leave nothing behind, and a client."""
    from posthaste import Posthaste

    daemon = Posthaste(tmp_path_factory.mktemp("shared")).start()
    client = Client(f"127.0.0.1:{daemon.grpc}")
    yield daemon, client
    client.close()
    daemon.stop()


def test_all_bad_fields_are_named_at_once(shared):
    _, client = shared
    with fails(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        client.submit(campaign="x" * 200, idempotency_key="a b", parts=parts(to="x", subject="a\nb"))
    named = {violation.field for violation in client.details(caught.error)["BadRequest"].field_violations}
    assert named == {"campaign", "idempotency_key", "parts.to[0]", "parts.subject"}


def test_a_replay_gets_the_first_receipt(door):
    daemon, target, client = door
    first = client.submit(parts=parts(), idempotency_key="order-1")
    assert not first.replayed
    daemon.wait_terminal(["a@them.test"])
    again = client.submit(parts=parts(), idempotency_key="order-1")
    assert again.replayed and again.message_id == first.message_id and again.accepted_at == first.accepted_at
    with fails(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        client.submit(parts=parts(text="another"), idempotency_key="order-1")
    assert client.details(caught.error)["ErrorInfo"].reason == "KEY_REUSED"
    assert daemon.stop() == 0
    daemon.start()
    after = client.submit(parts=parts(), idempotency_key="order-1")
    assert after.message_id == first.message_id and after.replayed
    assert len(target.mails) == 1


def test_a_message_can_be_watched_and_taken_back(start, sink, connect):
    target = sink(verdict=lambda address, sender: "451 4.2.0 later" if address.startswith("later") else None)
    daemon = start({**relay(target), "retry": {"delay_min": "1h", "delay_max": "2h"}})
    client = connect(daemon)
    states = client.pool.FindEnumTypeByName("posthaste.v1.RecipientStatus.State").values_by_name
    cancel = client.method("Submission", "Cancel")
    request = client.type("CancelRequest")

    receipt = client.submit(parts={"from": FROM, "subject": "x", "text": "x",
                                   "to": [{"address": "now@them.test"}, {"address": "later@them.test"}]})
    daemon.wait_event("now@them.test", "delivered")
    daemon.wait_event("later@them.test", "deferred")
    message = peers.wait_until(lambda: (m := client.message(receipt.message_id)).recipients[1].attempts and m)
    now, later = message.recipients
    assert (now.address, now.state) == ("now@them.test", states["STATE_DELIVERED"].number)
    assert (later.address, later.state) == ("later@them.test", states["STATE_WAITING"].number)
    assert later.reply.startswith("451 4.2.0") and later.next_attempt.seconds > message.accepted_at.seconds
    assert message.waiting and message.sender == "orders@shop.test"

    taken = cancel(request(message_id=receipt.message_id))
    assert (taken.messages, taken.recipients, taken.in_flight) == (1, 1, 0)
    daemon.wait_event("later@them.test", "cancelled")
    message = client.message(receipt.message_id)
    assert not message.waiting
    assert {r.address: r.state for r in message.recipients}["later@them.test"] == states["STATE_CANCELLED"].number
    again = cancel(request(message_id=receipt.message_id))
    assert (again.messages, again.recipients) == (0, 0), "who missed the answer may ask again"

    # By key and by campaign, before the first attempt.
    soon = {"seconds": message.accepted_at.seconds + 3600}
    client.submit(parts=parts("k@them.test"), idempotency_key="k", not_before=soon)
    for n in range(3):
        client.submit(parts=parts(f"c{n}@them.test"), campaign="autumn", not_before=soon)
    assert cancel(request(idempotency_key="k")).messages == 1
    assert cancel(request(campaign="autumn")).messages == 3
    ends = daemon.wait_terminal(["k@them.test", "c0@them.test", "c1@them.test", "c2@them.test"])
    assert {ends[address]["event"] for address in ("k@them.test", "c0@them.test")} == {"cancelled"}
    assert [mail.recipients for mail in target.mails] == [["now@them.test"]]

    with fails(grpc.StatusCode.NOT_FOUND):
        client.message("1D1JZ3G000001")
    with fails(grpc.StatusCode.INVALID_ARGUMENT) as caught:
        client.message("no id")
    assert client.details(caught.error)["BadRequest"].field_violations[0].field == "message_id"


def test_events_go_on_from_a_cursor_and_over_a_restart(door):
    daemon, _, client = door
    names = {value.number: value.name for value in
             client.pool.FindEnumTypeByName("posthaste.v1.Event.Kind").values}

    def read(count, **fields):
        """(recipients, cursor behind the last) of the next events."""
        found, stream = [], client.watch(**fields)
        for response in stream:
            if response.HasField("event"):
                assert names[response.event.kind] == "KIND_DELIVERED" and response.event.code == 250
                found.append((response.event.recipient, response.cursor))
            if len(found) == count:
                stream.cancel()
                return [recipient for recipient, _ in found], found[-1][1]
        raise AssertionError("the stream ended")

    for n in range(6):
        client.submit(parts=parts(f"u{n}@them.test"), campaign="odd" if n % 2 else "even")
        daemon.wait_event(f"u{n}@them.test")
    oldest = client.pool.FindEnumTypeByName("posthaste.v1.WatchRequest.Start").values_by_name["START_OLDEST"].number
    seen, cursor = read(4, start=oldest)
    assert seen == ["u0@them.test", "u1@them.test", "u2@them.test", "u3@them.test"]
    assert daemon.stop() == 0
    daemon.start()
    seen, cursor = read(2, cursor=cursor)
    assert seen == ["u4@them.test", "u5@them.test"]
    assert read(3, start=oldest, campaign="odd")[0] == ["u1@them.test", "u3@them.test", "u5@them.test"]
    # What happens now.
    stream = client.watch(cursor=cursor)
    first = next(iter(stream))
    assert first.caught_up and not first.HasField("event")
    client.submit(parts=parts("late@them.test"))
    event = next(response.event for response in stream if response.HasField("event"))
    assert event.recipient == "late@them.test" and event.sender == "orders@shop.test" and event.mx_address
    stream.cancel()
    with fails(grpc.StatusCode.INVALID_ARGUMENT):
        next(iter(client.watch(cursor="nonsense")))


def test_health(door):
    daemon, _, client = door
    health = health_pb2_grpc.HealthStub(client.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "posthaste.v1.Submission", "posthaste.v1.Events"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == serving
    with fails(grpc.StatusCode.NOT_FOUND):
        health.Check(health_pb2.HealthCheckRequest(service="posthaste.v1.Nonsense"), timeout=10)
    watch = iter(health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=60))
    assert next(watch).status == serving
    daemon.signal(15)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_tls_and_tokens(start, sink, connect, tmp_path):
    target = sink()
    cert, key = peers.certificate(tmp_path, "mta.shop.test")
    daemon = start({**relay(target), "submission": {"grpc": {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "trusted_networks": []}}})
    token = tenant(daemon, "acme", "--from-domain", "shop.test", "--class", "transactional")
    trust = grpc.ssl_channel_credentials(cert.read_bytes())
    named = [("grpc.ssl_target_name_override", "mta.shop.test")]

    client = connect(daemon, credentials=trust, token=token, options=named)
    receipt = client.submit(parts=parts())
    event = daemon.wait_event("a@them.test")
    assert (event["tenant"], event["message_id"]) == ("acme", receipt.message_id)
    assert b"acme" not in target.wait(1)[0].content
    for fields, field in [({"parts": parts(), "class": 2}, "class"), ({"parts": parts(), "tenant": "other"}, "tenant")]:
        with fails(grpc.StatusCode.PERMISSION_DENIED) as caught:
            client.submit(**fields)
        assert client.details(caught.error)["BadRequest"].field_violations[0].field == field
    with fails(grpc.StatusCode.PERMISSION_DENIED):
        client.submit(parts={**parts(), "from": {"address": "ceo@bank.test"}})

    for wrong in (None, token[:-1] + ("a" if token[-1] != "a" else "b"), "nonsense"):
        stranger = connect(daemon, credentials=trust, token=wrong, options=named)
        submit = stranger.channel.unary_unary("/posthaste.v1.Submission/Submit", request_serializer=bytes,
                                              response_deserializer=bytes)
        with fails(grpc.StatusCode.UNAUTHENTICATED):
            submit(b"", metadata=stranger.metadata, timeout=20)
    plain = connect(daemon, token=token)
    with fails(grpc.StatusCode.UNAVAILABLE):
        plain.channel.unary_unary("/posthaste.v1.Submission/Submit")(b"", timeout=20)


def test_client_certificates(start, sink, connect, tmp_path):
    cert, key = peers.certificate(tmp_path, "mta.shop.test")
    authority, issue = peers.authority(tmp_path)
    daemon = start({**relay(sink()), "submission": {"grpc": {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "tls_client_ca_file": str(authority),
        "trusted_networks": []}}})
    tenant(daemon, "acme", "--certificate", "app1.acme.test", "--no-token")
    named = [("grpc.ssl_target_name_override", "mta.shop.test")]

    def client(name):
        chain, private = issue(name)
        return connect(daemon, options=named, credentials=grpc.ssl_channel_credentials(
            cert.read_bytes(), private.read_bytes(), chain.read_bytes()))

    client("app1.acme.test").submit(parts=parts())
    assert daemon.wait_event("a@them.test")["tenant"] == "acme"
    stranger = client("app2.acme.test")
    with fails(grpc.StatusCode.UNAUTHENTICATED):
        stranger.channel.unary_unary("/posthaste.v1.Submission/Submit")(b"", timeout=20)


def test_unix_socket(start, sink, connect, tmp_path):
    path = tmp_path / "grpc.sock"
    daemon = start({**relay(sink()), "submission": {"grpc": {"listen": [], "listen_unix": [str(path)]}}})
    # grpcio's own authority for a socket is its path with percent signs, which no URI has there (RFC 3986 §3.2.2).
    client = connect(f"unix:{path}", options=[("grpc.default_authority", "localhost")])
    client.submit(tenant="anybody", parts=parts())
    assert daemon.wait_event("a@them.test")["tenant"] == "anybody"
    assert daemon.stop() == 0 and not os.path.exists(path)


def test_quotas_say_when_to_come_back(start, sink, connect):
    daemon = start({**relay(sink()), "submission": {"grpc": {"trusted_networks": []}}})
    token = tenant(daemon, "small", "--per-hour", 2)
    client = connect(daemon, token=token)
    for n in range(2):
        client.submit(parts=parts(f"u{n}@them.test"))
    with fails(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
        client.submit(parts=parts("u2@them.test"), idempotency_key="third")
    details = client.details(caught.error)
    assert details["ErrorInfo"].reason == "QUOTA"
    assert 0 < details["RetryInfo"].retry_delay.seconds <= 3660, "within the hour and the minute it is counted by"
    daemon.cli("tenant", "set", "small", "--per-hour", 3, "--config", daemon.file)
    receipt = client.submit(parts=parts("u2@them.test"), idempotency_key="third")
    assert receipt.message_id and not receipt.replayed

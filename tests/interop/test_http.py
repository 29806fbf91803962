"""HTTP as curl speaks it, and everything the OpenAPI document promises, tried by schemathesis."""

import base64
import email
import email.policy
import json
import os
import pathlib
import re
import subprocess
import sys

import peers
import pytest
from conftest import relay, tenant

MESSAGE = {"from": "The shöp <orders@shop.test>", "to": ["a@them.test"], "subject": "hello", "text": "hello\n"}


class Curl:
    """curl against one daemon."""

    def __init__(self, url, *options):
        self.url, self.options = url, options

    def __call__(self, path, *options, data=None, kind="application/json", **kwargs):
        """(status, headers, body) of a request; the body is read as JSON where it is that."""
        words = ["--silent", "--show-error", "--include", "--max-time", 60, "--suppress-connect-headers",
                 *self.options, *options]
        if data is not None:
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            words += ["--header", f"Content-Type: {kind}", "--data-binary", "@-", "--expect100-timeout", "10"]
        done = peers.run("curl", *words, self.url + path, input=data, text=False, **kwargs)
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        while head.split(b" ")[1].startswith(b"1"):
            head, _, body = body.partition(b"\r\n\r\n")
        first, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if "json" in headers.get("content-type", "") and "ndjson" not in headers["content-type"]:
            body = json.loads(body)
        return int(first.split()[1]), headers, body


@pytest.fixture
def door(start, sink):
    """A daemon that relays to a sink, the sink, curl."""
    target = sink()
    daemon = start(relay(target))
    return daemon, target, Curl(f"http://127.0.0.1:{daemon.http}")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_a_message_from_parts(door, version):
    daemon, target, curl = door
    status, headers, receipt = curl("/v1/messages", version, data={
        **MESSAGE, "cc": [{"name": "Bjørn, Jr.", "address": "cc@them.test"}], "bcc": ["bcc@them.test"],
        "html": "<p>Grüße", "headers": {"List-Unsubscribe": "<https://shop.test/u>"}, "class": "bulk",
        "campaign": "spring", "tags": ["one", "two"], "idempotency_key": "order-1",
        "attachments": [{"file_name": "Zoë.pdf", "content_type": "application/pdf",
                         "content": base64.b64encode(b"\0pdf").decode()}],
    })
    assert status == 201 and headers["content-type"] == "application/json"
    assert headers["location"] == f"/v1/messages/{receipt['id']}" and receipt["ids"] == [receipt["id"]]
    event = daemon.wait_terminal(["a@them.test", "cc@them.test", "bcc@them.test"])["cc@them.test"]
    assert (event["message_id"], event["campaign"], event["class"]) == (receipt["id"], "spring", "bulk")
    message = email.message_from_bytes(target.wait(1)[0].content, policy=email.policy.default)
    assert message["Cc"].addresses[0].display_name == "Bjørn, Jr." and message["Bcc"] is None
    assert [part.get_content() for part in message.iter_attachments()] == [b"\0pdf"]
    # Where it stands.
    status, _, report = curl(headers["location"], version)
    assert status == 200 and not report["waiting"] and report["campaign"] == "spring"
    assert {each["address"]: each["state"] for each in report["recipients"]}["bcc@them.test"] == "delivered"


def test_a_whole_message(door):
    _, target, curl = door
    status, _, receipt = curl("/v1/messages?recipient=a%40them.test&recipient=b%40them.test&tag=x&personal=true",
                              "--header", 'Idempotency-Key: "raw-1"', kind="message/rfc822",
                              data=b"From: orders@shop.test\nSubject: raw\n\none\n.\n..two\n")
    assert status == 201 and len(receipt["ids"]) == 2
    mails = target.wait(2)
    assert all(mail.content.endswith(b"\r\n\r\none\r\n.\r\n..two\r\n") for mail in mails)
    assert sorted(mail.recipients[0] for mail in mails) == ["a@them.test", "b@them.test"]


def test_a_replay_gets_the_first_receipt(door):
    daemon, target, curl = door
    key = ("--header", "Idempotency-Key: order-1")
    status, _, first = curl("/v1/messages", *key, data=MESSAGE)
    assert status == 201 and not first["replayed"]
    daemon.wait_terminal(["a@them.test"])
    status, _, again = curl("/v1/messages", *key, data=MESSAGE)
    assert status == 200 and again == {**first, "replayed": True}
    status, headers, problem = curl("/v1/messages", *key, data={**MESSAGE, "text": "another"})
    assert (status, problem["type"]) == (409, "urn:posthaste:problem:key-reused")
    assert headers["content-type"] == "application/problem+json"
    assert daemon.stop() == 0
    daemon.start()
    assert curl("/v1/messages", *key, data=MESSAGE)[2] == again
    assert len(target.mails) == 1


def test_messages_are_taken_back(door):
    daemon, target, curl = door
    later = {**MESSAGE, "not_before": "1h"}
    one = curl("/v1/messages", data=later)[2]["id"]
    curl("/v1/messages", data={**later, "to": ["k@them.test"], "idempotency_key": "a/b c".replace(" ", "&")})
    for n in range(3):
        curl("/v1/messages", data={**later, "to": [f"c{n}@them.test"], "campaign": "spring & autumn"})
    delete = ("--request", "DELETE")
    status, _, report = curl(f"/v1/messages/{one}")
    assert status == 200 and report["waiting"] and report["recipients"][0]["state"] == "waiting"
    assert report["recipients"][0]["events"] == []
    assert curl(f"/v1/messages/{one}", *delete)[::2] == (200, {"messages": 1, "recipients": 1, "in_flight": 0})
    assert curl("/v1/messages?idempotency_key=a%2Fb%26c", *delete)[2]["messages"] == 1
    assert curl("/v1/messages?campaign=spring%20%26+autumn", *delete)[2]["messages"] == 3
    assert curl("/v1/messages?campaign=nothing", *delete)[2] == {"messages": 0, "recipients": 0, "in_flight": 0}
    ends = daemon.wait_terminal(["a@them.test", "k@them.test", "c0@them.test", "c1@them.test", "c2@them.test"])
    assert {end["event"] for end in ends.values()} == {"cancelled"} and not target.mails
    for wrong in ("", "?campaign=a&idempotency_key=b", "?nonsense=1", "?campaign="):
        assert curl(f"/v1/messages{wrong}", *delete)[0] == 400, wrong


@pytest.mark.parametrize(("changes", "field"), [
    ({"from": None}, "from"),
    ({"to": []}, "recipients"),
    ({"to": ["a@them.test", "x"]}, "to[1]"),
    ({"to": "a@them.test"}, "to"),
    ({"subject": "a\r\nBcc: evil@them.test"}, "subject"),
    ({"headers": {"Bad Name": "x"}}, 'headers["Bad Name"]'),
    ({"headers": {"X-Good": "a\nb"}}, 'headers["X-Good"]'),
    ({"class": "urgent"}, "class"),
    ({"tags": ["a", ""]}, "tags[1]"),
    ({"campaign": "x" * 129}, "campaign"),
    ({"idempotency_key": "a b"}, "idempotency_key"),
    ({"not_before": "soon"}, "not_before"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"sender": "nobody"}, "sender"),
    ({"raw": "!"}, "raw"),
    ({"attachments": [{"content": "!"}]}, "attachments[0].content"),
    ({"colour": "red"}, "colour"),
])
def test_bad_fields_are_named(shared, changes, field):
    daemon, curl = shared
    message = {key: value for key, value in {**MESSAGE, **changes}.items() if value is not None}
    status, headers, problem = curl("/v1/messages", data=message)
    assert (status, headers["content-type"]) == (400, "application/problem+json"), problem
    assert field in [violation["field"] for violation in problem["violations"]], problem
    assert problem["status"] == 400 and problem["title"] and problem["smtp_reply"].startswith("550 5.6.0 ")
    assert not daemon.events()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A daemon for tests that leave nothing behind, and curl."""
    from posthaste import Posthaste

    daemon = Posthaste(tmp_path_factory.mktemp("shared"),
                       {"submission": {"http": {"max_message_size": "64KiB"}}}).start()
    yield daemon, Curl(f"http://127.0.0.1:{daemon.http}")
    daemon.stop()


@pytest.mark.parametrize(("path", "options", "data", "status", "kind"), [
    ("/v1/messages", (), {**MESSAGE, "text": "x" * 200_000}, 413, "too-large"),
    ("/v1/messages/1D1JZ3G000001", (), None, 404, "not-found"),
    ("/v1/messages/nonsense", (), None, 404, "not-found"),
    ("/v1/messages/1D1JZ3G000001", ("--request", "DELETE"), None, 404, "not-found"),
    ("/nowhere", (), None, 404, "not-found"),
    ("/v1/suppressions?cursor=nonsense", (), None, 400, "invalid"),
    ("/v1/suppressions?cursor=1&address=a@b.test", (), None, 400, "invalid"),
    ("/v1/suppressions?address=a@b.test&reason=none", (), None, 400, "invalid"),
    ("/v1/messages", ("--request", "PUT"), None, 405, "method-not-allowed"),
    ("/v1/messages", ("--header", "Accept: text/html"), MESSAGE, 406, "not-acceptable"),
    ("/v1/messages", ("--header", "Authorization: Bearer nonsense"), MESSAGE, 401, "unauthenticated"),
    ("/v1/messages", (), b"{", 400, "invalid"),
])
def test_problems(shared, path, options, data, status, kind):
    found, headers, problem = shared[1](path, *options, data=data)
    assert (found, problem["type"]) == (status, f"urn:posthaste:problem:{kind}")
    assert headers["content-type"] == "application/problem+json" and problem["status"] == status
    assert status != 405 or "POST" in headers["allow"]
    assert status != 401 or "www-authenticate" in headers


def test_wrong_content_type(shared):
    status, _, problem = shared[1]("/v1/messages", data=b"x=1", kind="application/x-www-form-urlencoded")
    assert (status, problem["type"]) == (415, "urn:posthaste:problem:unsupported-media-type")


def test_a_batch_streams(door):
    daemon, target, curl = door
    count, bad = 500, {3, 77, 500}
    lines = [json.dumps({**MESSAGE, "to": ["x" if n in bad else f"u{n}@them.test"], "idempotency_key": f"batch/{n}"})
             for n in range(1, count + 1)]
    batch = "\n".join(lines).encode()
    for replayed in (False, True):
        status, headers, body = curl("/v1/messages:batch", "--no-buffer", data=batch, kind="application/x-ndjson")
        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        answers = [json.loads(line) for line in body.splitlines()]
        assert [answer["line"] for answer in answers] == list(range(1, count + 1))
        assert {answer["line"] for answer in answers if answer["status"] == 400} == bad
        assert all(answers[n - 1]["problem"]["violations"][0]["field"] == "to[0]" for n in bad)
        good = [answer for answer in answers if answer["line"] not in bad]
        assert {(answer["status"], answer["receipt"]["replayed"]) for answer in good} == {(200 if replayed else 201, replayed)}
    daemon.wait_terminal([f"u{n}@them.test" for n in range(1, count + 1) if n not in bad])
    assert len({r for mail in target.mails for r in mail.recipients}) == count - len(bad)


def test_a_batch_is_a_dialogue(door, stack):
    """Each answer comes as soon as its message is on disk, while the request is still open."""
    _, _, curl = door
    child = subprocess.Popen(
        [peers.program("curl"), "--silent", "--no-buffer", "--http2-prior-knowledge", "--upload-file", ".", "--request", "POST",
         "--header", "Content-Type: application/x-ndjson", f"{curl.url}/v1/messages:batch"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=peers.environment())
    stack.callback(child.wait)
    stack.callback(child.stdout.close)
    stack.callback(child.kill)
    for n in range(1, 4):
        child.stdin.write(json.dumps({**MESSAGE, "to": [f"u{n}@them.test"]}).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
        assert (answer["line"], answer["status"]) == (n, 201)
    child.stdin.close()
    assert child.stdout.read() == b"" and child.wait(20) == 0


def test_tokens_passwords_and_quotas(start, sink, tmp_path):
    cert, key = peers.certificate(tmp_path, "mta.shop.test")
    daemon = start({**relay(sink()), "submission": {"http": {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "trusted_networks": []}}})
    token = tenant(daemon, "acme", "--from-domain", "shop.test", "--per-hour", 2)
    curl = Curl(f"https://mta.shop.test:{daemon.http}", "--cacert", cert,
                "--connect-to", f"mta.shop.test:{daemon.http}:127.0.0.1:{daemon.http}")
    assert curl("/v1/openapi.json")[0] == 200
    assert curl("/v1/messages", data=MESSAGE)[0] == 401
    assert curl("/v1/messages", "--user", "acme:wrong", data=MESSAGE)[0] == 401
    bearer = ("--header", f"Authorization: Bearer {token}")
    status, _, receipt = curl("/v1/messages", *bearer, data=MESSAGE)
    assert status == 201 and daemon.wait_event("a@them.test")["tenant"] == "acme"
    assert curl("/v1/messages", "--user", f"acme:{token}", data=MESSAGE)[0] == 201
    status, headers, problem = curl("/v1/messages", *bearer, data=MESSAGE)
    assert (status, problem["type"]) == (429, "urn:posthaste:problem:quota")
    assert 0 < int(headers["retry-after"]) == problem["retry_after"] <= 3660
    status, _, problem = curl("/v1/messages", *bearer, data={**MESSAGE, "from": "ceo@bank.test"})
    assert (status, problem["violations"][0]["field"]) == (403, "sender"), "which is From's, since none was said"
    # Another tenant's message is no message.
    other = tenant(daemon, "other")
    assert curl(f"/v1/messages/{receipt['id']}", "--oauth2-bearer", other)[0] == 404
    status, _, report = curl(f"/v1/messages/{receipt['id']}", *bearer)
    recipient, = report["recipients"]
    assert (status, recipient["state"], recipient["events"][-1]["event"]) == (200, "delivered", "delivered")
    assert recipient["events"][-1]["code"] == 250 and recipient["events"][-1]["attempt"] == recipient["attempts"]
    # The answer comes whole although nobody reads the body for it.
    for path, kind in (("/v1/messages", "application/json"), ("/v1/messages:batch", "application/x-ndjson"),
                       ("/v1/suppressions", "application/json"), ("/v1/suppressions", "text/csv"),
                       ("/nowhere", "text/plain")):
        status, _, problem = curl(path, "--http2", data=b"x" * 40_000, kind=kind)
        assert (status, problem["status"]) == ((404, 404) if path == "/nowhere" else (401, 401)), path


def test_unix_socket(start, sink, tmp_path):
    path = tmp_path / "http.sock"
    daemon = start({**relay(sink()), "submission": {"http": {"listen": [], "listen_unix": [str(path)]}}})
    curl = Curl("http://posthaste", "--unix-socket", path)
    assert curl("/v1/messages", data={**MESSAGE, "tenant": "anybody"})[0] == 201
    assert daemon.wait_event("a@them.test")["tenant"] == "anybody"


def test_the_document_keeps_its_promises(start, sink, tmp_path):
    """schemathesis tries what the document allows and what it does not, and checks every answer against it."""
    target = sink()
    daemon = start(relay(target))
    document = Curl(f"http://127.0.0.1:{daemon.http}")("/v1/openapi.json")[2]
    assert document["openapi"].startswith("3.1")
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file", peers.HERE / "schemathesis.toml", "run",
         f"http://127.0.0.1:{daemon.http}/v1/openapi.json", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, timeout=150, env={**os.environ, "PYTHONPATH": str(peers.HERE)})
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, said[-20000:]
    assert daemon.process.running()

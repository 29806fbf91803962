"""The suppression list: filled and read by the command line and over HTTP, and obeyed."""

import hashlib
import json
import subprocess

import peers
import pytest
from conftest import relay, tenant
from posthaste import BINARY
from test_http import MESSAGE, Curl


@pytest.fixture
def world(start, sink):
    """A daemon that relays to a sink, the sink, curl."""
    target = sink()
    daemon = start(relay(target))
    return daemon, target, Curl(f"http://127.0.0.1:{daemon.http}")


def suppression(daemon, *words, text=None, code=0):
    """What `posthaste suppression` prints."""
    done = subprocess.run([BINARY, "suppression", *words, "--config", str(daemon.file)], input=text, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout, done.stderr


def test_import_and_export(world, tmp_path):
    daemon, _, _ = world
    hashed = hashlib.sha256(b"hidden@them.test").hexdigest()
    rows = ["email,reason,until", "Ann@Them.test,unsubscribe,", "nobody,,", f"{hashed},complaint,2099-01-01T00:00:00Z", "@spam.test,,", ",,"]
    file = tmp_path / "list.csv"
    file.write_text("\r\n".join(rows))
    out, errors = suppression(daemon, "import", str(file), "--dry-run", "--scope", "tenant:shop", code=1)
    assert "5 rows: 3 could be stored, 2 refused" in out and f"{file}:3: address: the address has no @" in errors
    assert json.loads(suppression(daemon, "list", "--json")[0])["counts"] == [0, 0, 0]
    out, _ = suppression(daemon, "import", str(file), "--json", "--scope", "tenant:shop", code=1)
    done = json.loads(out)
    assert (done["stored"], done["refused"], [error["line"] for error in done["errors"]]) == (3, 2, [3, 6])
    exported, _ = suppression(daemon, "export", "--format", "ndjson")
    entries = [json.loads(line) for line in exported.splitlines()]
    assert sorted(entry["reason"] for entry in entries) == ["complaint", "manual", "unsubscribe"]
    assert {"ann@them.test", "spam.test", hashed} == {
        entry.get("address") or entry.get("domain") or entry.get("hash") for entry in entries}
    # What was exported is what is imported, whatever the format, and a restart changes nothing.
    daemon.stop()
    daemon.start()
    for format in ("csv", "ndjson"):
        exported, _ = suppression(daemon, "export", "--format", format)
        for subject in ("ann@them.test", "@spam.test", f"sha256:{hashed}"):
            suppression(daemon, "remove", subject)
        suppression(daemon, "remove", "ann@them.test", code=1)
        out, _ = suppression(daemon, "import", "-", "--format", format, text=exported)
        assert "3 rows: 3 stored, 0 refused" in out
        again, _ = suppression(daemon, "export", "--format", format)
        assert sorted(again.splitlines()) == sorted(exported.splitlines())
    # A hash stands for its address.
    out, _ = suppression(daemon, "show", "Hidden@them.test", "--json")
    assert [entry["hash"] for entry in json.loads(out)["entries"]] == [hashed]


def test_a_hundred_thousand_rows(world):
    daemon, _, _ = world
    text = "".join(f"user{n}@them{n % 97}.test\n" for n in range(100_000))
    out, errors = suppression(daemon, "import", "-", text=text)
    assert "100000 rows: 100000 stored, 0 refused" in out and "100000 rows sent" in errors
    exported, _ = suppression(daemon, "export")
    assert sorted(line.split(",")[0] for line in exported.splitlines()[1:]) == sorted(text.split())
    daemon.process.child.kill()
    daemon.process.child.wait()
    daemon.start()
    out, _ = suppression(daemon, "list", "--limit", "5", "--json")
    assert json.loads(out)["counts"] == [100_000, 0, 0]


def test_each_tenant_keeps_its_own(world):
    daemon, target, curl = world
    tokens = {name: tenant(daemon, name) for name in ("shop", "club")}
    shop, club = ((lambda *words, token=token, **more: curl(*words, "--header", f"Authorization: Bearer {token}", **more))
                  for token in tokens.values())
    entries = [{"address": "Ann@them.test"}, {"address": "bob@them.test", "list": "news", "reason": "unsubscribe"}]
    status, _, done = shop("/v1/suppressions", data={"entries": entries})
    assert (status, done["stored"]) == (200, 2)
    status, _, page = shop("/v1/suppressions")
    assert status == 200 and sorted(entry["scope"] for entry in page["entries"]) == ["list:shop/news", "tenant:shop"]
    assert club("/v1/suppressions")[2]["entries"] == []
    assert club("/v1/suppressions?address=ann@them.test")[2]["entries"] == []
    assert [entry["address"] for entry in shop("/v1/suppressions?address=ANN@them.test")[2]["entries"]] == ["ann@them.test"]
    for path in ("/v1/suppressions?tenant=shop", "/v1/suppressions?tenant=shop&address=ann@them.test"):
        assert club(path)[0] == 403
    wrong = [{"address": "ann@them.test", "scope": "global"}, {"address": "nobody"}, {"hash": "00"}]
    status, _, problem = shop("/v1/suppressions", data={"entries": wrong})
    assert status == 400
    assert [violation["field"] for violation in problem["violations"]] == [
        "entries[0].scope", "entries[1].address", "entries[2].hash"]
    status, _, done = shop("/v1/suppressions?list=old", kind="text/csv", data=b"address\na@them.test\nnobody\nb@them.test\n")
    assert (status, done["stored"], done["errors"]) == (200, 2, [{"line": 3, "why": "address: the address has no @"}])
    # The mail of one is kept away, the other's is not.
    for post in (shop, club):
        status, _, receipt = post("/v1/messages", data={**MESSAGE, "to": ["ann@them.test"]})
        assert status == 201
        event = peers.wait_until(lambda id=receipt["id"]: next(
            (event for event in daemon.events() if event.get("message_id") == id and event["event"] in ("suppressed", "delivered")), None))
        assert event["event"] == ("suppressed" if post is shop else "delivered")
    assert club("/v1/suppressions?address=ann@them.test", "--request", "DELETE")[0] == 404
    status, _, removed = shop("/v1/suppressions?address=ann@them.test", "--request", "DELETE")
    assert status == 200 and [entry["scope"] for entry in removed["entries"]] == ["tenant:shop"]
    told = [(event["what"], event.get("recipient"), event.get("count")) for event in daemon.events()
            if event["event"] == "suppression"]
    assert told == [("added", "ann@them.test", None), ("added", "bob@them.test", None), ("added", None, 2),
                    ("removed", "ann@them.test", None)]

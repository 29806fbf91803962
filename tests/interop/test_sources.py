"""Sources behind programs that connect for us: a SOCKS5 proxy and HAProxy; and an address that comes and goes."""

import shutil
import subprocess

import peers
import pytest

MESSAGES = 20


def configuration(sink, source):
    """Everything goes to the sink, from this source."""
    source = {"name": "far", "ehlo": "far.shop.test", **source}
    return {"route": [{"match": "*", "relay": [f"{sink.addresses[0]}:{sink.port}"]}], "source": [source]}


def send(daemon, to="bob@them.test"):
    daemon.client().sendmail("alice@shop.test", [to], f"To: {to}\r\nSubject: hello\r\n\r\nHello.\r\n")


def delivered(daemon, count):
    """The events of deliveries, once there are so many; nothing was put off before."""
    events = peers.wait_until(
        lambda: len(found := [e for e in daemon.events() if e["event"] == "delivered"]) >= count and found,
        what=f"{count} deliveries")
    assert not [e for e in daemon.events() if e["event"] == "deferred"]
    return events


def check_all_come_from(daemon, sink, client):
    for n in range(MESSAGES):
        send(daemon, f"b{n}@them.test")
    events = delivered(daemon, MESSAGES)
    assert {event["source"] for event in events} == {"far"}
    assert {mail.client for mail in sink.wait(MESSAGES)} == {client}
    return events


@pytest.mark.parametrize("password", [False, True])
def test_through_a_socks5_proxy(start, sink, socks, tmp_path, password):
    sink = sink()
    words = ["-u", "mta", "-P", "secret"] if password else []
    port = socks("127.0.0.51", *words)
    source = {"proxy": f"socks5://127.0.0.1:{port}"}
    if password:
        file = tmp_path / "password"
        file.write_text("secret\n")
        file.chmod(0o600)
        source |= {"username": "mta", "password_file": str(file)}
    check_all_come_from(start(configuration(sink, source)), sink, "127.0.0.51")


def test_a_socks5_proxy_that_refuses_the_password_costs_no_mail(start, sink, socks, tmp_path):
    sink = sink()
    port = socks("127.0.0.51", "-u", "mta", "-P", "secret")
    file = tmp_path / "password"
    file.write_text("wrong\n")
    file.chmod(0o600)
    source = {"proxy": f"socks5://127.0.0.1:{port}", "username": "mta", "password_file": str(file)}
    daemon = start(configuration(sink, source))
    send(daemon)
    events = peers.wait_until(lambda: [e for e in daemon.events() if e["event"] == "deferred"], what="a deferral")
    assert "refuses the user" in events[0]["reply"], events[0]
    assert events[0]["blame"] == "egress_path", events[0]


@pytest.mark.parametrize("family", [4, 6])
def test_through_haproxy(start, sink, haproxy, family):
    sink = sink(["127.0.0.1", "::1"] if family == 6 else ["127.0.0.1"])
    port = haproxy()
    relay, address = (f"[::1]:{sink.port}", "::1") if family == 6 else (f"127.0.0.1:{sink.port}", "127.0.0.52")
    config = configuration(sink, {"proxy": f"haproxy://127.0.0.1:{port}", "addresses": [address]})
    config["route"][0]["relay"] = [relay]
    events = check_all_come_from(start(config), sink, address)
    assert {event["source_address"] for event in events} == {address}


def test_an_address_that_comes_and_goes(start, sink):
    """An address for documentation (RFC 5737) on the loopback interface of this host."""
    address, interface = "192.0.2.77", ["dev", "lo"]

    def change(deed):
        command = ["ip", "address", deed, f"{address}/32", *interface]
        return shutil.which("ip") and subprocess.run(command, capture_output=True, check=False).returncode == 0

    sink = sink()
    daemon = start(configuration(sink, {"addresses": [address]}))
    out = lambda: address in daemon.get("/readyz")[1]
    peers.wait_until(out, what="the source is out")
    if not change("add"):
        pytest.skip("addresses cannot be changed here")
    try:
        peers.wait_until(lambda: not out(), what="the source is back")
        send(daemon)
        delivered(daemon, 1)
        assert {mail.client for mail in sink.wait(1)} == {address}
        change("del")
        peers.wait_until(out, what="the source is out again")
        send(daemon)
        change("add")
        delivered(daemon, 2)
        told = lambda: [e["what"] for e in daemon.events() if e["event"] == "source"] == ["out", "back", "out", "back"]
        peers.wait_until(told, what="the events that tell of it")
    finally:
        change("del")

"""What every test may ask for; all of it ends with the test."""

import contextlib
import json

import peers
import pytest
from posthaste import Posthaste
from sink import Sink


@pytest.fixture
def stack(tmp_path):
    """What runs; it ends before the test's folder goes (`tmp_path`)."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def start(tmp_path, stack):
    """`start(config)`: a running daemon. Its log is shown when the test fails."""

    def start(config=None):
        directory = tmp_path / f"posthaste{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        daemon = Posthaste(directory, config)
        daemon.start()
        stack.callback(print_log, daemon)
        stack.callback(daemon.stop)
        return daemon

    return start


def print_log(daemon):
    print(f"--- {daemon.process.log}\n{daemon.log()[-20000:]}")


@pytest.fixture
def sink(stack):
    """`sink(...)`: a running sink."""

    def start(*arguments, **options):
        sink = Sink(*arguments, **options)
        stack.callback(sink.stop)
        return sink

    return start


@pytest.fixture
def postfix(tmp_path, stack):
    """`postfix(address, port, extra, services)`: a running Postfix."""

    def start(address, port, extra="", services=""):
        directory = tmp_path / f"postfix-{address}"
        directory.mkdir()
        server = peers.Postfix(directory, address, port, extra=extra, services=services)
        stack.callback(lambda: print(f"--- {server.maillog}\n{server.log()}"))
        stack.callback(server.stop)
        return server

    return start


@pytest.fixture
def exim(tmp_path, stack):
    """`exim(address, port, routers, transports, retry)`: a running Exim."""

    def start(address, port, routers, transports, retry=""):
        directory = tmp_path / f"exim-{address}"
        directory.mkdir()
        server = peers.Exim(directory, address, port, routers, transports, retry)
        stack.callback(lambda: print(f"--- exim\n{server.log()}\n{server.process.output()}"))
        stack.callback(server.stop)
        return server

    return start


@pytest.fixture
def nsd(tmp_path, stack):
    """`nsd({zone: text})`: a running NSD."""

    def start(zones):
        directory = tmp_path / "nsd"
        directory.mkdir()
        server = peers.Nsd(directory, zones)
        stack.callback(server.stop)
        return server

    return start


@pytest.fixture
def socks(tmp_path, stack):
    """`socks(source, words...)`: the port of a running SOCKS5 proxy."""

    def start(source, *words):
        server = peers.Socks(tmp_path, source, *words)
        stack.callback(server.stop)
        return server.port

    return start


@pytest.fixture
def haproxy(tmp_path, stack):
    """`haproxy()`: the port of a running HAProxy."""

    def start():
        server = peers.Haproxy(tmp_path)
        stack.callback(lambda: print(f"--- haproxy\n{server.process.output()}"))
        stack.callback(server.stop)
        return server.port

    return start


def relay(sink):
    """Configuration that sends everything to one sink."""
    return {"route": [{"match": "*", "relay": [f"{sink.addresses[0]}:{sink.port}"]}]}


def tenant(daemon, name, *words):
    """Registers a tenant; its token, if it gets one."""
    done = daemon.cli("tenant", "add", name, "--json", "--config", daemon.file, *words)
    return json.loads(done.stdout).get("token")

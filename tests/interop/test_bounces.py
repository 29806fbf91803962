"""Real bounces: Postfix and Exim take our mail, find out later that they cannot deliver it, and send their own reports."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import peers
import pytest

POSTFIX, EXIM = "127.0.3.1", "127.0.3.2"
BACK = "bounces.shop.test"


def wanted(start, server, relay, **feedback):
    """A daemon that sends everything to `server` and takes back what it returns at port `relay`."""
    return start({
        "route": [{"match": "*", "relay": [f"{server.address}:{server.port}"]}],
        "feedback": {"bounce_domain": BACK, **feedback},
        "inbound": {"listen": [f"127.0.0.1:{relay}"]},
    })


def returned(daemon, recipient):
    """What came back of mail to `recipient`, which had been taken."""
    end = daemon.wait_event(recipient)
    assert end["event"] == "delivered", end
    back = daemon.wait_event(recipient, "returned", timeout=60)
    assert back["message_id"] == end["message_id"], (back, end)
    assert (back["sender"], back["by"]) == ("orders@shop.test", "127.0.0.1"), back
    return back


def check_suppressed(daemon, recipient, back):
    """A dead address is on the suppression list because of what came back, and mail to it goes nowhere."""
    entry = daemon.wait_event(recipient, "suppression")
    assert (entry["evidence"], entry["what"], entry["reason"]) == (back["id"], "added", "hard-bounce"), entry
    daemon.send(recipient)
    ends = peers.wait_until(lambda: daemon.events(recipient, ["suppressed"]), what="the second message to be suppressed")
    assert len(ends) == 1 and len(daemon.events(recipient, ["delivered"])) == 1


def postfix_that_returns(postfix, relay, *more):
    # An alias that leads nowhere is found out after the 250; so is what a delivery program says.
    extra = "\n".join([
        "virtual_alias_maps = inline:{ {gone@postfix.test = nobody@postfix.test} {two@postfix.test = all@postfix.test} }",
        f"transport_maps = inline:{{ {{{BACK} = smtp:[127.0.0.1]:{relay}}} {{full@postfix.test = full:}}"
        " {policy@postfix.test = policy:} {later@postfix.test = smtp:[127.0.0.1]:1} }",
        "minimal_backoff_time = 1s", "queue_run_delay = 1s", *more,
    ])
    program = "  unix - n n - - pipe user=nobody argv=/bin/sh -c {echo %s; exit %d}\n"
    services = "full" + program % ("5.2.2 mailbox full: quota exceeded", 73)
    services += "policy" + program % ("5.7.1 rejected by the policy of the site", 77)
    return postfix(POSTFIX, peers.free_port(POSTFIX), extra=extra, services=services)


def test_what_postfix_returns(postfix, start):
    relay = peers.free_port()
    server = postfix_that_returns(postfix, relay)
    daemon = wanted(start, server, relay)
    for name in ("gone", "full", "policy", "fine"):
        daemon.send(f"{name}@postfix.test")
    back = returned(daemon, "gone@postfix.test")
    assert (back["what"], back["reason"], back["enhanced"]) == ("failed", "user-unknown", "5.1.1"), back
    check_suppressed(daemon, "gone@postfix.test", back)
    back = returned(daemon, "full@postfix.test")
    assert (back["what"], back["reason"], back["enhanced"]) == ("failed", "mailbox-full", "5.2.2"), back
    back = returned(daemon, "policy@postfix.test")
    assert (back["what"], back["reason"]) == ("failed", "policy"), back
    daemon.wait_event("fine@postfix.test", "delivered")
    assert [event["recipient"] for event in daemon.events(names=["suppression"])] == ["gone@postfix.test"]
    assert not daemon.events("fine@postfix.test", ["returned"])


@pytest.mark.parametrize("verp", ["recipient", "transaction"])
def test_of_several_recipients_postfix_returns_one(postfix, start, verp):
    relay = peers.free_port()
    server = postfix_that_returns(postfix, relay)
    daemon = wanted(start, server, relay, verp=verp)
    daemon.send(["two@postfix.test", "gone@postfix.test", "three@postfix.test"])
    back = returned(daemon, "gone@postfix.test")
    assert (back["what"], back["reason"]) == ("failed", "user-unknown"), back
    if verp == "recipient":
        check_suppressed(daemon, "gone@postfix.test", back)
    else:
        # All three have that return path, and the report says who it is about: no proof.
        assert not daemon.events(names=["suppression"])
    assert {event["recipient"] for event in daemon.events(names=["returned"])} == {"gone@postfix.test"}


def test_that_postfix_is_late_is_no_failure(postfix, start):
    relay = peers.free_port()
    daemon = wanted(start, postfix_that_returns(postfix, relay, "delay_warning_time = 1s"), relay)
    daemon.send("later@postfix.test")
    back = returned(daemon, "later@postfix.test")
    assert back["what"] == "delayed", back
    assert not daemon.events(names=["suppression"])


ROUTERS = """
back:
  driver = manualroute
  domains = bounces.shop.test
  route_list = * 127.0.0.1
  self = send
  transport = back
gone:
  driver = redirect
  local_parts = alias
  data = nosuch@exim.test
full:
  driver = accept
  local_parts = full
  transport = full
nowhere:
  driver = accept
  local_parts = fine
  transport = nowhere
"""
TRANSPORTS = """
back:
  driver = smtp
  port = {relay}
  allow_localhost = true
  hosts_try_dane =
  hosts_try_chunking =
full:
  driver = appendfile
  file = /var/lib/mail/full
  quota = 10
  user = Debian-exim
nowhere:
  driver = appendfile
  file = /dev/null
  user = Debian-exim
"""


def test_what_exim_returns(exim, start):
    relay = peers.free_port()
    server = exim(EXIM, peers.free_port(EXIM), ROUTERS, TRANSPORTS.format(relay=relay))
    daemon = wanted(start, server, relay)
    for name in ("gone", "alias", "full", "fine"):
        daemon.send(f"{name}@exim.test")
    for name in ("gone", "alias"):
        back = returned(daemon, f"{name}@exim.test")
        assert (back["what"], back["reason"]) == ("failed", "user-unknown"), back
        check_suppressed(daemon, f"{name}@exim.test", back)
    back = returned(daemon, "full@exim.test")
    assert (back["what"], back["reason"]) == ("failed", "mailbox-full"), back
    suppressed = {event["recipient"] for event in daemon.events(names=["suppression"])}
    assert suppressed == {"gone@exim.test", "alias@exim.test"}
    daemon.wait_event("fine@exim.test", "delivered")


SUITE = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import peers
port = peers.free_port("127.0.3.9")
directory = pathlib.Path(sys.argv[2])
server = peers.Postfix(directory, "127.0.3.9", port)
print(port, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_suite_that_is_killed(tmp_path, how):
    work = tmp_path / "work"
    work.mkdir()
    suite = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SUITE), str(pathlib.Path(__file__).parent), str(work)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
    try:
        port = int(suite.stdout.readline())
        assert peers.listens("127.0.3.9", port)
        suite.send_signal(how)
        suite.wait(10)
        peers.wait_until(lambda: not peers.listens("127.0.3.9", port), what="postfix to be gone")
    finally:
        suite.kill()
        suite.wait()
        suite.stdin.close()
        suite.stdout.close()

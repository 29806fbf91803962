"""Postfix receives, as Debian ships it, over STARTTLS."""

import email
import re
import socket
import socketserver
import threading

import peers
import pytest


def config_for(server, **delivery):
    return {"route": [{"match": "*", "relay": [f"{server.address}:{server.port}"]}], "delivery": delivery}


def test_it_takes_the_mail_whole_over_tls(postfix, start):
    server = postfix("127.0.3.1", peers.free_port("127.0.3.1"))
    daemon = start(config_for(server, tls="required"))
    lines = [b"line %d" % n for n in range(2000)] + [b".", b"..", b". dot", b"", b"=20end"]
    body = b"\r\n".join(lines) + b"\r\n"
    daemon.send("alice@postfix.test", b"Subject: whole\r\n\r\n" + body)
    event = daemon.wait_event("alice@postfix.test")
    assert event["event"] == "delivered" and event["code"] == 250, event
    assert event["tls"]["version"] == "TLSv1.3", event["tls"]
    peers.wait_until(server.mails, what="mail in the maildir")
    mail = server.mails()[0].replace(b"\n", b"\r\n")
    assert mail.partition(b"\r\n\r\n")[2] == body
    assert re.search(r"TLS connection established from .*TLSv1.3", server.log())
    received = email.message_from_bytes(mail).get_all("Received")
    assert "using TLSv1.3" in received[0] and "mta.shop.test" in received[0]
    # The queue id that Postfix answered is in the event, for support.
    queue_id = re.search(r"queued as (\w+)", event["reply"])[1]
    assert queue_id in server.log()


def test_eight_bit_utf8_and_bodies_without_a_line_end(postfix, start):
    server = postfix("127.0.3.1", peers.free_port("127.0.3.1"))
    daemon = start(config_for(server))
    daemon.send("plain@postfix.test", "Subject: 8bit\r\n\r\nGrüße".encode(), mail_options=["BODY=8BITMIME"])
    daemon.send("zoë@postfix.test", "Subject: smørrebrød\r\n\r\nhei\r\n".encode(), sender="bjørn@shop.test",
                mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    daemon.wait_terminal(["plain@postfix.test", "zoë@postfix.test"])
    peers.wait_until(lambda: len(server.mails()) == 2, what="two mails")
    assert any("Grüße".encode() in mail for mail in server.mails())
    assert any("smørrebrød".encode() in mail for mail in server.mails())


def test_unknown_users_bounce_and_the_others_do_not(postfix, start, sink):
    server, reports = postfix("127.0.3.1", peers.free_port("127.0.3.1")), sink()
    config = config_for(server)
    config["route"].insert(0, {"match": "shop.test", "relay": [f"127.0.0.1:{reports.port}"]})
    daemon = start(config)
    daemon.send(["alice@postfix.test", "nobody@postfix.test", "bob@postfix.test"])
    ends = daemon.wait_terminal(["alice@postfix.test", "nobody@postfix.test", "bob@postfix.test"])
    assert {who: end["event"] for who, end in ends.items() if "postfix" in who} == {
        "alice@postfix.test": "delivered", "bob@postfix.test": "delivered", "nobody@postfix.test": "bounced"}
    refused = ends["nobody@postfix.test"]
    assert (refused["code"], refused["enhanced"], refused["blame"]) == (550, "5.1.1", "recipient"), refused
    assert len(reports.wait(1)) == 1


def test_a_message_too_big_for_the_receiver_bounces(postfix, start, sink):
    reports = sink()
    server = postfix("127.0.3.1", peers.free_port("127.0.3.1"), extra="message_size_limit = 20000")
    config = config_for(server)
    config["route"].insert(0, {"match": "shop.test", "relay": [f"127.0.0.1:{reports.port}"]})
    daemon = start(config)
    daemon.send("alice@postfix.test", b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * 1000)
    daemon.send("alice2@postfix.test", b"Subject: small\r\n\r\nx\r\n")
    ends = daemon.wait_terminal(["alice@postfix.test", "alice2@postfix.test"])
    big = ends["alice@postfix.test"]
    assert (big["event"], big["enhanced"], big["blame"]) == ("bounced", "5.3.4", "message"), big
    assert ends["alice2@postfix.test"]["event"] == "delivered"


class Policy(socketserver.ThreadingTCPServer):
    """A Postfix policy service: what it says to each recipient is `action`."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, action):
        self.action, self.seen = action, []
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            request = {}
            for line in self.rfile:
                name, _, value = line.decode().rstrip("\n").partition("=")
                if name:
                    request[name] = value
                    continue
                self.server.seen.append(request["recipient"])
                self.wfile.write(f"action={self.server.action(request)}\n\n".encode())
                request = {}


@pytest.fixture
def policed(postfix, stack):
    def start(action):
        policy = Policy(action)
        stack.callback(policy.server_close)
        stack.callback(policy.shutdown)
        service = f"inet:127.0.0.1:{policy.server_address[1]}"
        extra = f"smtpd_recipient_restrictions = check_policy_service {service}"
        return postfix("127.0.3.1", peers.free_port("127.0.3.1"), extra=extra), policy

    return start


def test_greylisting_is_waited_out(policed, start):
    seen = {}

    def greylist(request):
        seen[request["recipient"]] = seen.get(request["recipient"], 0) + 1
        return "451 4.7.1 Greylisted, please try again" if seen[request["recipient"]] == 1 else "DUNNO"

    server, policy = policed(greylist)
    daemon = start(config_for(server))
    daemon.send(["alice@postfix.test", "bob@postfix.test"])
    ends = daemon.wait_terminal(["alice@postfix.test", "bob@postfix.test"])
    for recipient in ends:
        assert ends[recipient]["event"] == "delivered"
        deferred = daemon.events(recipient, ["deferred"])
        assert [(e["code"], e["enhanced"]) for e in deferred] == [(451, "4.7.1")]
        assert policy.seen.count(recipient) == 2


def test_deferred_mail_waits_and_can_be_hurried(policed, start):
    open_now = threading.Event()
    server, policy = policed(lambda request: "DUNNO" if open_now.is_set() else "450 4.2.1 Mailbox busy")
    daemon = start({**config_for(server), "retry": {"delay_min": "5m", "delay_max": "4h"}})
    daemon.send("alice@postfix.test")
    event = daemon.wait_event("alice@postfix.test", "deferred")
    assert (event["code"], event["enhanced"]) == (450, "4.2.1")
    assert not daemon.events(names=["delivered", "bounced"])
    open_now.set()
    daemon.cli("queue", "retry", "--config", daemon.file, event["message_id"])
    assert daemon.wait_event("alice@postfix.test")["event"] == "delivered"


def test_policy_rejection_and_a_session_thrown_out(policed, start, sink):
    thrown = []

    def judge(request):
        if request["recipient"].startswith("spam"):
            return "554 5.7.1 Blocked by policy"
        if request["recipient"].startswith("later") and not thrown:
            thrown.append(request["recipient"])
            return "421 4.7.0 Come back later"
        return "DUNNO"

    reports = sink()
    server, _ = policed(judge)
    config = config_for(server, site_pause_min="1s")
    config["route"].insert(0, {"match": "shop.test", "relay": [f"127.0.0.1:{reports.port}"]})
    daemon = start(config)
    daemon.send("spam@postfix.test")
    daemon.send("later@postfix.test")
    ends = daemon.wait_terminal(["spam@postfix.test", "later@postfix.test"])
    assert (ends["spam@postfix.test"]["event"], ends["spam@postfix.test"]["enhanced"]) == ("bounced", "5.7.1")
    assert ends["later@postfix.test"]["event"] == "delivered", "a 421 is no verdict on a message"


def test_a_dead_port_defers_and_does_not_bounce(start):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        daemon = start({"route": [{"match": "*", "relay": [f"127.0.0.1:{closed.getsockname()[1]}"]}]})
        daemon.send("alice@postfix.test")
        event = daemon.wait_event("alice@postfix.test", "deferred")
    assert event["blame"] == "site" and event["enhanced"].startswith("4.4."), event
    assert not daemon.events(names=["bounced"])

"""Receivers that misbehave. Mail to them waits, mail to others goes out, and once they behave they get theirs: once, or twice
where nobody can know (a receiver that takes a message and vanishes before its answer)."""

import contextlib
import functools
import time

import peers
import pytest
import receivers as kind
from conftest import daemons
from daemon import wait_until
from receivers import Bad, Unanswered
from sink import Sink
from test_disk import whole

# Short, so that hanging is noticed within a test.
QUICK = {
    "retry": {"delay_min": "1s", "delay_max": "1s"},
    "delivery": {
        "site_pause_min": "1s", "site_pause_max": "1s", "idle_timeout": "1s",
        "timeout": {name: "1s" for name in ("connect", "greeting", "ehlo", "tls", "envelope", "data_start", "data_block",
                                            "data_end")},
    },
}

# Each, and the words that an operator reads of a message that met it.
BEFORE_THE_END = {
    kind.never_answers: "did not answer within 1s",
    kind.hangs_at_once: "the receiver did not answer CONNECT within 1s",
    kind.hangs_at_ehlo: "the receiver did not answer EHLO within 1s",
    kind.hangs_at_auth: "the receiver did not answer AUTH within 1s",
    kind.hangs_at_mail: "the receiver did not answer MAIL within 1s",
    kind.hangs_at_rcpt: "the receiver did not answer RCPT within 1s",
    kind.hangs_at_rset: "later",
    kind.hangs_at_data: "the receiver did not answer DATA within 1s",
    kind.stops_reading: "the receiver took nothing for 1s",
    kind.drops_at_once: "the receiver closed the connection instead of answering CONNECT",
    kind.resets_in_content: "the connection broke at ",
    kind.answers_garbage: " is no reply",
    kind.answers_nonsense_codes: "answer to MAIL: \"999 9.9.9 hello\" is no reply",
    kind.greets_with_many_lines: "answer to CONNECT: a reply of more than 1000 lines",
    kind.one_endless_line: "answer to CONNECT: a reply line of more than 65536 octets",
    kind.trickles: "the receiver did not answer CONNECT within 1s",
}
AFTER_THE_END = {
    kind.hangs_after_dot: "the receiver did not answer . within 1s",
    kind.hangs_after_bdat: "the receiver did not answer BDAT within 1s",
    kind.drops_after_dot: "the receiver closed the connection instead of answering .",
    kind.accepts_then_vanishes: "the receiver closed the connection instead of answering .",
    kind.answers_garbage_to_dot: " is no reply",
    kind.answers_dot_with_many_lines: "a reply of more than 1000 lines",
    kind.trickles_after_dot: "the receiver did not answer . within 1s",
}
IN_TLS = [kind.breaks_tls, kind.closes_in_handshake, kind.hangs_in_handshake, kind.closes_tls_half_way,
          kind.hangs_at_ehlo_in_tls]
ALL = [*BEFORE_THE_END, *AFTER_THE_END, kind.hangs_at_quit]
TLS = ["required", "opportunistic"]
# A second message behind one that is put off, without which there is no RSET.
BEHIND = "other@hangs-at-rset.test"
GOOD = [f"user{number}@good.test" for number in range(20)]


def name(each):
    return each.__name__


def address(each, tls=""):
    return f"user@{name(each).replace('_', '-')}{tls and f'.{tls}'}.test"


class Met:
    """What became of mail to all of them, sent at once, each a site of its own, beside a good one."""

    def __init__(self, directory, stack):
        self.sink = functools.partial(started, stack)
        self.bad = {address(each): self.receiver(each, stack) for each in ALL}
        certificate = peers.certificate(directory, "bad.test")
        self.bad |= {address(each, tls): Bad(self.sink(certificate=certificate), each) for each in IN_TLS for tls in TLS}
        self.good = self.sink()
        secret = directory / "secret"
        secret.write_text("secret\n")
        config = {**QUICK, "route": [*[self.route(to, secret) for to in self.bad],
                                     {"match": "*", "relay": [f"127.0.0.1:{self.good.port}"]}]}
        config["delivery"] = {**QUICK["delivery"], "connections_per_site": 1}
        self.daemon = daemons(directory, stack)(config).start()
        for to in self.bad:
            # More than the system keeps for who does not read.
            lines = 300_000 if to == address(kind.stops_reading) else 1
            self.daemon.send(to, b"Subject: x\r\n\r\n" + b"A line that stands for the rest of it.\r\n" * lines)
            if to == address(kind.hangs_at_rset):
                self.daemon.send(BEHIND)
        self.meet()

    def receiver(self, each, stack):
        if each is kind.never_answers:
            return Unanswered(self.sink, stack)
        if each is kind.hangs_at_auth:
            return Bad(self.sink(extensions=["PIPELINING", "8BITMIME", "AUTH PLAIN"]), each)
        return Bad(self.sink(), each)

    def route(self, to, secret):
        domain = to.partition("@")[2]
        route = {"match": domain, "relay": [f"127.0.0.1:{self.bad[to].port}"]}
        tls = domain.split(".")[1]
        if tls in TLS:
            route["tls"] = tls
        if to == address(kind.hangs_at_auth):
            route |= {"username": "shop", "password_file": str(secret)}
        return route

    def meet(self):
        """Has the mail meet them as they are, and then mended. Who fails here is found by the test of its kind."""
        daemon = self.daemon
        self.tried = self.settle(lambda: {to for to, bad in self.bad.items() if bad.seen}, self.bad, 20)
        began = time.monotonic()
        for to in GOOD:
            daemon.send(to)
        self.good_ones = self.settle(lambda: self.heard(["delivered"]), GOOD, 20)
        self.good_took = time.monotonic() - began
        self.settle(lambda: self.heard(["deferred", "bounced", "delivered"]), self.bad, 20)
        # Those who hang are hung up on, long before they are mended.
        self.left = self.settle(lambda: {to for to, bad in self.bad.items() if bad.left},
                                [address(each) for each in ALL if name(each).startswith("hangs")], 20)
        self.before = daemon.events()
        for bad in self.bad.values():
            bad.mend()
        self.ended = self.settle(lambda: self.heard(["delivered", "bounced", "expired"]), [*self.bad, BEHIND], 40)

    def heard(self, names):
        return {event["recipient"] for event in self.daemon.events(names=names)}

    @staticmethod
    def settle(have, want, timeout):
        """Waits until it has all that is wanted, but not for ever; what it has then."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: set(want) <= have(), timeout)
        return have()

    def of(self, to, events=None):
        return [event for event in events or self.daemon.events() if event.get("recipient") == to]


def started(stack, *arguments, **options):
    sink = Sink(*arguments, **options)
    stack.callback(sink.stop)
    return sink


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield Met(tmp_path_factory.mktemp("receivers"), stack)


def told(met, to):
    """What was said of it while its receiver misbehaved: that it waits, and nothing else."""
    assert to in met.tried, "never tried"
    events = met.of(to, met.before)
    deferred = [event for event in events if event["event"] == "deferred"]
    assert deferred and {event["event"] for event in events} <= {"accepted", "deferred"}, events
    return deferred


def arrived(met, to):
    """How often it came once its receiver was mended; its one end is told."""
    ends = [event["event"] for event in met.of(to) if event["event"] in ("delivered", "bounced", "expired")]
    assert ends == ["delivered"], met.of(to)
    return met.bad[to].sink.to(to)


@pytest.mark.parametrize("each", BEFORE_THE_END, ids=name)
def test_receiver(met, each):
    to = address(each)
    said = told(met, to)[0]["reply"]
    assert BEFORE_THE_END[each] in said, said
    assert len(arrived(met, to)) == 1
    if name(each).startswith("hangs"):
        assert to in met.left, "nobody hung up"
    if each is kind.hangs_at_rset:
        assert b"RSET" in met.bad[to].heard
    if each is kind.hangs_at_auth:
        assert b"AUTH" in met.bad[to].heard


@pytest.mark.parametrize("each", AFTER_THE_END, ids=name)
def test_receiver_that_may_have_it(met, each):
    """It has all of the message and its answer is none: so it gets it again."""
    to = address(each)
    said = told(met, to)[0]["reply"]
    assert said.startswith("the content was sent and not answered: ") and AFTER_THE_END[each] in said, said
    assert len(arrived(met, to)) == 1, "besides the one that it had"
    if name(each).startswith("hangs"):
        assert to in met.left, "nobody hung up"


def test_receiver_that_hangs_at_quit(met):
    """It has said 250: the message is delivered at once, and the connection is let go all the same."""
    to = address(kind.hangs_at_quit)
    assert [event["event"] for event in met.of(to, met.before) if event["event"] != "accepted"] == ["delivered"]
    assert to in met.left and b"QUIT" in met.bad[to].heard
    assert met.bad[to].seen == 1 and not met.bad[to].sink.mails, "sent again"


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("each", IN_TLS, ids=name)
def test_receiver_that_breaks_tls(met, each, tls):
    """Where TLS is required the mail waits for it; where it is not, it may go in the clear."""
    to = address(each, tls)
    if tls == "required":
        told(met, to)
    else:
        assert to in met.tried
    copies = arrived(met, to)
    assert len(copies) == 1
    assert copies[0].tls or tls == "opportunistic"


def test_good_receiver_beside_bad_ones(met):
    assert set(GOOD) <= met.good_ones and met.good_took < 5, met.good_took


def test_nothing_is_left_of_bad_receivers(met):
    """Last of them all: the daemon is as it was, and has not lost anything."""
    assert met.daemon.process.running() and met.daemon.ready()
    ends = met.daemon.wait_terminal([*met.bad, *GOOD, BEHIND])
    assert {end["event"] for end in ends.values()} == {"delivered"}
    whole(met.daemon, met.good, GOOD)

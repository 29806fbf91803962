"""Receivers and name servers that misbehave. Mail to them waits, mail to others goes out, and once they behave they get
theirs: once, or twice where nobody can know (a receiver that takes a message and vanishes before its answer)."""

import asyncio
import contextlib
import signal
import socket
import ssl
import threading

import peers
import pytest
from daemon import wait_until

# Short, so that hanging is noticed within a test.
QUICK = {
    "retry": {"delay_min": "1s", "delay_max": "1s"},
    "delivery": {
        "site_pause_min": "1s", "site_pause_max": "1s", "idle_timeout": "1s",
        "timeout": {name: "1s" for name in ("connect", "greeting", "ehlo", "tls", "envelope", "data_start", "data_block",
                                            "data_end")},
    },
}
MANY = 10_000


class Bad:
    """A receiver of one kind of misbehaviour, until `good` is set; `seen` counts what it did."""

    def __init__(self, sink, kind):
        self.sink, self.kind, self.good, self.seen = sink, kind, False, 0
        self.decent, sink.dialogue = sink.dialogue, self.dialogue

    async def dialogue(self, reader, writer, host, connection):
        if self.good:
            return await self.decent(reader, writer, host, connection)
        self.seen += 1
        await self.kind(self, reader, Voice(reader, writer))


class Voice:
    """What a bad receiver says."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def say(self, *lines):
        for line in lines:
            self.writer.write(line if isinstance(line, bytes) else f"{line}\r\n".encode())
        await self.writer.drain()

    async def greet(self, *extensions):
        """Up to the answer to EHLO."""
        await self.say("220 bad.test ESMTP")
        await self.reader.readline()
        lines = ["bad.test", *extensions]
        await self.say(*[f"250-{line}" for line in lines[:-1]], f"250 {lines[-1]}")

    async def envelope(self):
        """Up to the 354."""
        await self.greet("8BITMIME")
        for reply in ("250 2.1.0 ok", "250 2.1.5 ok", "354 go"):
            await self.reader.readline()
            await self.say(reply)

    async def content(self):
        """Up to the dot, which is not answered."""
        await self.envelope()
        while await self.reader.readline() not in (b".\r\n", b""):
            pass

    async def forever(self):
        """Silent; the connection stays."""
        await asyncio.sleep(3600)


async def hangs_at_once(bad, reader, voice):
    await voice.forever()


async def hangs_at_ehlo(bad, reader, voice):
    await voice.say("220 bad.test ESMTP")
    await voice.forever()


async def hangs_at_mail(bad, reader, voice):
    await voice.greet("PIPELINING")
    await voice.forever()


async def hangs_at_rcpt(bad, reader, voice):
    await voice.greet("8BITMIME")
    await reader.readline()
    await voice.say("250 2.1.0 ok")
    await voice.forever()


async def hangs_at_data(bad, reader, voice):
    await voice.greet("8BITMIME")
    for reply in ("250 2.1.0 ok", "250 2.1.5 ok"):
        await reader.readline()
        await voice.say(reply)
    await voice.forever()


async def hangs_after_dot(bad, reader, voice):
    await voice.content()
    await voice.forever()


async def hangs_after_bdat(bad, reader, voice):
    await voice.greet("PIPELINING", "CHUNKING")
    await voice.say("250 2.1.0 ok", "250 2.1.5 ok")
    await voice.forever()


async def drops_at_once(bad, reader, voice):
    pass


async def drops_after_dot(bad, reader, voice):
    await voice.content()


async def resets_in_content(bad, reader, voice):
    await voice.envelope()
    voice.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def accepts_then_vanishes(bad, reader, voice):
    await voice.content()
    await voice.say(b"250 2.0.0 o")


async def answers_garbage(bad, reader, voice):
    await voice.say(bytes(range(256)) * 4)


async def answers_garbage_to_dot(bad, reader, voice):
    await voice.content()
    await voice.say(b"\xff\xfe\0\0 999 what\r\n")


async def answers_nonsense_codes(bad, reader, voice):
    await voice.greet("PIPELINING")
    await reader.readline()
    await voice.say("999 9.9.9 hello", "000 0.0.0 there", "250 2.0.0 ok")
    await voice.forever()


async def greets_with_many_lines(bad, reader, voice):
    with contextlib.suppress(ConnectionError):
        await voice.say(*[f"220-line {n} " + "x" * 400 for n in range(MANY)], "220 bad.test")


async def answers_dot_with_many_lines(bad, reader, voice):
    await voice.content()
    with contextlib.suppress(ConnectionError):
        await voice.say(*[f"250-line {n} " + "x" * 400 for n in range(MANY)], "250 ok")


async def one_endless_line(bad, reader, voice):
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            await voice.say(b"220 " + b"x" * 100_000)


async def trickles(bad, reader, voice):
    """An octet now and then keeps no wait from ending."""
    with contextlib.suppress(ConnectionError):
        for octet in b"220-" + b"slow " * 1000:
            await voice.say(bytes([octet]))
            await asyncio.sleep(0.2)


BEFORE_THE_END = [
    hangs_at_once, hangs_at_ehlo, hangs_at_mail, hangs_at_rcpt, hangs_at_data, drops_at_once, resets_in_content,
    answers_garbage, answers_nonsense_codes, greets_with_many_lines, one_endless_line, trickles,
]
AFTER_THE_END = [
    hangs_after_dot, hangs_after_bdat, drops_after_dot, accepts_then_vanishes, answers_garbage_to_dot,
    answers_dot_with_many_lines,
]


def addresses(kinds):
    return [(kind, f"user@{kind.__name__.replace('_', '-')}.test") for kind in kinds]


def test_receivers(make, sink):
    """All at once, each a site of its own, beside a good one."""
    good = sink()
    bad = {address: Bad(sink(), kind) for kind, address in addresses(BEFORE_THE_END + AFTER_THE_END)}
    routes = [{"match": address.partition("@")[2], "relay": [f"127.0.0.1:{each.sink.port}"]}
              for address, each in bad.items()]
    routes.append({"match": "*", "relay": [f"127.0.0.1:{good.port}"]})
    daemon = make({**QUICK, "route": routes}).start()
    for address in bad:
        daemon.send(address)
    wait_until(lambda: all(each.seen for each in bad.values()), 20,
               f"every receiver is tried, but {[a for a, each in bad.items() if not each.seen]}")
    # The good one is not kept waiting.
    for number in range(20):
        daemon.send(f"user{number}@good.test")
    for number in range(20):
        assert daemon.wait_event(f"user{number}@good.test", timeout=5)["event"] == "delivered"
    wait_until(lambda: all(daemon.events(address, ["deferred"]) for address in bad if "many-lines" not in address),
               20, "every one of them is put off")
    ended = {event["recipient"]: event for event in daemon.events(names=["bounced", "expired", "delivered"])}
    # A reply of 10,000 lines that ends in 250 is a 250, if it is taken at all.
    early = {address for address in bad if address in ended} - {"user@answers-dot-with-many-lines.test"}
    assert not early, {address: ended[address] for address in early}
    for each in bad.values():
        each.good = True
    ends = daemon.wait_terminal(bad, timeout=30)
    assert {end["event"] for end in ends.values()} == {"delivered"}, ends
    for kind, address in addresses(BEFORE_THE_END):
        assert len(bad[address].sink.to(address)) == 1, f"{kind.__name__}: {len(bad[address].sink.to(address))} copies"
    assert daemon.process.running() and daemon.ready()


async def breaks_tls(bad, reader, voice):
    """Says go ahead, then no TLS."""
    await voice.greet("STARTTLS")
    await reader.readline()
    await voice.say("220 2.0.0 go ahead", b"\x16\x03\x01 and this is no handshake")


async def closes_in_handshake(bad, reader, voice):
    await voice.greet("STARTTLS")
    await reader.readline()
    await voice.say("220 2.0.0 go ahead")
    await reader.read(100)


async def hangs_in_handshake(bad, reader, voice):
    await voice.greet("STARTTLS")
    await reader.readline()
    await voice.say("220 2.0.0 go ahead")
    await voice.forever()


async def closes_tls_half_way(bad, reader, voice):
    """A good handshake, then the connection goes without a close_notify in the middle of the envelope."""
    await voice.greet("STARTTLS")
    await reader.readline()
    await voice.say("220 2.0.0 go ahead")
    await voice.writer.start_tls(bad.sink.tls)
    await reader.readline()
    await voice.say("250 bad.test")
    await reader.readline()
    voice.writer.transport.abort()


@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_receivers_that_break_tls(make, sink, tmp_path, tls):
    certificate = peers.certificate(tmp_path, "bad.test")
    kinds = [breaks_tls, closes_in_handshake, hangs_in_handshake, closes_tls_half_way]
    bad = {address: Bad(sink(certificate=certificate), kind) for kind, address in addresses(kinds)}
    routes = [{"match": address.partition("@")[2], "relay": [f"127.0.0.1:{each.sink.port}"], "tls": tls}
              for address, each in bad.items()]
    daemon = make({**QUICK, "route": routes}).start()
    for address in bad:
        daemon.send(address)
    wait_until(lambda: all(each.seen for each in bad.values()), 20, "every receiver is tried")
    wait_until(lambda: all(each.seen > 1 or daemon.events(address, ["deferred"]) for address, each in bad.items()), 20,
               "and tried again or put off")
    for each in bad.values():
        each.good = True
    ends = daemon.wait_terminal(bad, timeout=30)
    assert {end["event"] for end in ends.values()} == {"delivered"}, ends
    for address, each in bad.items():
        copies = each.sink.to(address)
        assert len(copies) == 1, f"{address}: {len(copies)} copies"
        assert copies[0].tls or tls == "opportunistic", address


class Names:
    """A name server that answers each question with what `answer(question)` makes of it; `None` is silence."""

    def __init__(self):
        self.answer, self.asked = None, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                question, client = self.socket.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            answer = self.answer(question) if self.answer else None
            if answer is not None:
                with contextlib.suppress(OSError):
                    self.socket.sendto(answer, client)

    def stop(self):
        self.socket.close()


def servfail(question):
    return question[:2] + b"\x81\x82" + question[4:6] + b"\0\0\0\0\0\0" + question[12:]


def name_end(question):
    return question.index(b"\0", 12) + 5


def good(question):
    """Every name has the address 127.0.0.1 and no MX."""
    end = name_end(question)
    kind = question[end - 4:end - 2]
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if kind == b"\0\1" else b""
    return question[:2] + b"\x81\x80\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0" + question[12:end] + answer


def garbage(question):
    return question[:2] + b"\xff" * 60


def cut_short(question):
    return good(question)[:-3]


def loops(question):
    """A name that points to itself."""
    end = name_end(question)
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] + b"\xc0" + bytes([end]) + question[end - 4:end] \
        + b"\0\0\0\1\0\4\x7f\0\0\1"


def of_another_name(question):
    """The right number and question, and an address for a name nobody asked for."""
    end = name_end(question)
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] \
        + b"\5other\4test\0\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1"


def of_another_question(question):
    return question[:2] + b"\x81\x80\0\1\0\0\0\0\0\0\5other\4test\0\0\1\0\1"


def with_another_number(question):
    return bytes([question[0] ^ 1]) + good(question)[1:]


@pytest.mark.parametrize("lie", [None, servfail, garbage, cut_short, loops, with_another_number, of_another_question,
                                 of_another_name])
def test_name_server(make, sink, stack, lie):
    """Dead, failing or lying: no verdict on the mail, and delivered when it is well again. That a look-up failed is
    remembered for a while; an operator who does not want to wait reloads."""
    names, target = Names(), sink()
    stack.callback(names.stop)
    names.answer = lie
    daemon = make({"dns": {"nameservers": [f"127.0.0.1:{names.port}"], "timeout": "1s"},
                   "delivery": {"port": target.port, **QUICK["delivery"]}, "retry": QUICK["retry"]}).start()
    recipients = [f"user@{name}.shop.test" for name in ("one", "two", "three")]
    for recipient in recipients:
        daemon.send(recipient)
    for recipient in recipients:
        event = daemon.wait_event(recipient, "deferred", "bounced", "delivered", timeout=10)
        assert event["event"] == "deferred" and event["enhanced"].startswith("4.4."), event
    assert names.asked and daemon.ready()
    assert not target.mails, "somebody's address was believed"
    names.answer = good
    daemon.send("user@four.shop.test")
    assert daemon.wait_event("user@four.shop.test", timeout=10)["event"] == "delivered"
    daemon.signal(signal.SIGHUP)
    ends = daemon.wait_terminal(recipients, timeout=10)
    assert {end["event"] for end in ends.values()} == {"delivered"}, ends



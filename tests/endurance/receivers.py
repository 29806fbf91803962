"""Receivers that misbehave, each in a way of its own, until they are mended."""

import asyncio
import contextlib
import pathlib
import socket

MANY = 10_000


class Bad:
    """A receiver of one kind of misbehaviour, until it is mended. `seen` counts what it did, `left` how often the daemon hung up
    on its silence; `heard` has the commands that it waited for."""

    def __init__(self, sink, kind):
        self.sink, self.kind, self.good, self.seen, self.left, self.heard = sink, kind, False, 0, 0, set()
        self.decent, sink.dialogue = sink.dialogue, self.dialogue

    @property
    def port(self):
        return self.sink.port

    def mend(self):
        self.good = True

    async def dialogue(self, reader, writer, host, connection):
        if self.good:
            return await self.decent(reader, writer, host, connection)
        self.seen += 1
        await self.kind(self, reader, Voice(self, reader, writer))


class Unanswered:
    """A port whose line is full: the kernel drops who knocks, as a firewall does. Mended, a sink takes its place."""

    def __init__(self, sink, stack):
        self.make, self.sink, self.kind, self.left = sink, None, never_answers, 0
        self.listener = stack.enter_context(socket.socket())
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.line = []
        while not self.line or self.answers(self.line[-1]):
            self.line.append(stack.enter_context(socket.socket()))
            self.line[-1].settimeout(0.3)

    def answers(self, caller):
        try:
            caller.connect(("127.0.0.1", self.port))
        except TimeoutError:
            return False
        return True

    @property
    def seen(self):
        """Whether somebody else knocks: SYN_SENT, from none of ours."""
        ours = {caller.getsockname()[1] for caller in self.line}
        rows = [row.split() for row in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2] == f"0100007F:{self.port:04X}" and row[3] == "02" and int(row[1][-4:], 16) not in ours
                   for row in rows)

    def mend(self):
        for each in [*self.line, self.listener]:
            each.close()
        self.sink = self.make(port=self.port)


def never_answers():
    """The kind of the above."""


class Voice:
    """What a bad receiver says."""

    def __init__(self, bad, reader, writer):
        self.bad, self.reader, self.writer = bad, reader, writer

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

    async def answer(self, *replies):
        """A command each."""
        for reply in replies:
            await self.reader.readline()
            await self.say(reply)

    async def envelope(self):
        """Up to the 354."""
        await self.greet("8BITMIME")
        await self.answer("250 2.1.0 ok", "250 2.1.5 ok", "354 go")

    async def content(self):
        """Up to the dot, which is not answered."""
        await self.envelope()
        while await self.reader.readline() not in (b".\r\n", b""):
            pass

    async def trickle(self, begin):
        """An octet now and then keeps no wait from ending."""
        with contextlib.suppress(ConnectionError):
            for octet in begin + b"slow " * 1000:
                await self.say(bytes([octet]))
                await asyncio.sleep(0.2)

    async def forever(self):
        """Silent, until the daemon hangs up."""
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.read(1 << 16):
                self.bad.heard.add(line[:4].strip())
        self.bad.left += 1


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
    await voice.answer("250 2.1.0 ok")
    await voice.forever()


async def hangs_at_data(bad, reader, voice):
    await voice.greet("8BITMIME")
    await voice.answer("250 2.1.0 ok", "250 2.1.5 ok")
    await voice.forever()


async def hangs_after_dot(bad, reader, voice):
    await voice.content()
    await voice.forever()


async def hangs_after_bdat(bad, reader, voice):
    await voice.greet("PIPELINING", "CHUNKING")
    await reader.readline()
    await voice.say("250 2.1.0 ok", "250 2.1.5 ok")
    await voice.forever()


async def hangs_at_auth(bad, reader, voice):
    await voice.greet("AUTH PLAIN")
    await voice.forever()


async def hangs_at_rset(bad, reader, voice):
    """Behind a recipient that was put off comes RSET, if there is another message; that one goes to the next connection."""
    await voice.greet("8BITMIME")
    await voice.answer("250 2.1.0 ok", "451 4.2.0 later")
    await voice.forever()


async def hangs_at_quit(bad, reader, voice):
    await voice.content()
    await voice.say("250 2.0.0 taken")
    await voice.forever()


async def stops_reading(bad, reader, voice):
    """Says go ahead and reads nothing."""
    voice.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await voice.envelope()
    voice.writer.transport.pause_reading()
    await asyncio.sleep(4)


async def trickles_after_dot(bad, reader, voice):
    await voice.content()
    await voice.trickle(b"250-")


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
    await voice.trickle(b"220-")


async def breaks_tls(bad, reader, voice):
    """Says go ahead, then no TLS."""
    await voice.greet("STARTTLS")
    await reader.readline()
    await voice.say("220 2.0.0 go ahead", b"\x16\x03\x01 and this is no handshake")


async def closes_in_handshake(bad, reader, voice):
    await voice.greet("STARTTLS")
    await voice.answer("220 2.0.0 go ahead")
    await reader.read(100)


async def hangs_in_handshake(bad, reader, voice):
    await voice.greet("STARTTLS")
    await voice.answer("220 2.0.0 go ahead")
    await voice.forever()


async def hangs_at_ehlo_in_tls(bad, reader, voice):
    """A good handshake, then no answer to the second EHLO."""
    await voice.greet("STARTTLS")
    await voice.answer("220 2.0.0 go ahead")
    await voice.writer.start_tls(bad.sink.tls)
    await voice.forever()


async def closes_tls_half_way(bad, reader, voice):
    """A good handshake, then the connection goes without a close_notify in the middle of the envelope."""
    await voice.greet("STARTTLS")
    await voice.answer("220 2.0.0 go ahead")
    await voice.writer.start_tls(bad.sink.tls)
    await voice.answer("250 bad.test")
    await reader.readline()
    voice.writer.transport.abort()

"""A receiving SMTP server for tests: takes everything, on as many addresses as wanted, and remembers it."""

import asyncio
import dataclasses
import re
import ssl
import threading

from peers import free_port, wait_until


@dataclasses.dataclass
class Mail:
    """One transaction, as received."""

    sender: str
    recipients: list
    content: bytes
    tls: bool
    host: str
    client: str
    connection: int
    mail_parameters: list
    rcpt_parameters: dict


class Sink:
    """Listens on one port of all `addresses`. `verdict(address, sender)` may return a reply to RCPT instead of 250."""

    def __init__(self, addresses=("127.0.0.1",), port=None, certificate=None, verdict=None, extensions=None):
        self.addresses, self.port = addresses, port or free_port(*addresses)
        self.verdict = verdict or (lambda address, sender: None)
        self.extensions = extensions or ["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN",
                                         "ENHANCEDSTATUSCODES"]
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self.mails, self.connections, self.open, self.open_max = [], {}, {}, {}
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.servers = [asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.session, address, self.port, limit=1 << 26), self.loop).result()
            for address in addresses]

    def stop(self):
        async def end():
            for server in self.servers:
                server.close()
            sessions = asyncio.all_tasks() - {asyncio.current_task()}
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    def wait(self, count, timeout=20):
        """The first `count` mails or more, once they are here."""
        wait_until(lambda: len(self.mails) >= count, timeout, f"{count} mails, have {len(self.mails)}")
        return self.mails

    def to(self, recipient):
        """The mails for one recipient."""
        return [mail for mail in self.mails if recipient in mail.recipients]

    async def session(self, reader, writer):
        host = writer.get_extra_info("sockname")[0]
        self.connections[host] = self.connections.get(host, 0) + 1
        self.open[host] = self.open.get(host, 0) + 1
        self.open_max[host] = max(self.open_max.get(host, 0), self.open[host])
        try:
            await self.dialogue(reader, writer, host, sum(self.connections.values()))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open[host] -= 1
            writer.close()

    async def dialogue(self, reader, writer, host, connection):
        encrypted, mail, chunks = False, None, b""

        async def say(*lines):
            for line in lines[:-1]:
                writer.write(f"{line[:3]}-{line[4:]}\r\n".encode())
            writer.write(f"{lines[-1]}\r\n".encode())
            await writer.drain()

        async def done(content):
            if not mail or not mail.recipients:
                return await say("503 5.5.1 no recipients")
            mail.content = content
            self.mails.append(mail)
            await say("250 2.0.0 taken")

        await say("220 sink.test ESMTP")
        while line := (await reader.readline()).decode("utf-8", "surrogateescape").rstrip("\r\n"):
            verb = line.split(" ")[0].upper()
            path = re.match(r"\w+:<(.*?)>\s*(.*)$", line.partition(" ")[2])
            if verb == "EHLO":
                offer = self.extensions + (["STARTTLS"] if self.tls and not encrypted else [])
                await say("250 sink.test", *(f"250 {extension}" for extension in offer))
            elif verb == "STARTTLS" and self.tls:
                await say("220 2.0.0 go ahead")
                await writer.start_tls(self.tls)
                encrypted = True
            elif verb == "MAIL":
                client = writer.get_extra_info("peername")[0]
                mail = Mail(path[1], [], b"", encrypted, host, client, connection, path[2].split(), {})
                chunks = b""
                await say("250 2.1.0 ok")
            elif verb == "RCPT":
                reply = self.verdict(path[1], mail.sender) or "250 2.1.5 ok"
                if reply.startswith("2"):
                    mail.recipients.append(path[1])
                    mail.rcpt_parameters[path[1]] = path[2].split()
                await say(reply)
            elif verb == "DATA":
                if not mail.recipients:
                    await say("554 5.5.1 no valid recipients")
                    continue
                await say("354 go ahead")
                content = b""
                while (each := await reader.readline()) != b".\r\n":
                    content += each[1:] if each.startswith(b".") else each
                await done(content)
                mail = None
            elif verb == "BDAT":
                words = line.split()
                chunks += await reader.readexactly(int(words[1]))
                if words[-1].upper() == "LAST":
                    await done(chunks)
                    mail, chunks = None, b""
                else:
                    await say("250 2.0.0 more")
            elif verb == "AUTH":
                await say("235 2.7.0 whoever you are")
            elif verb == "RSET":
                mail, chunks = None, b""
                await say("250 2.0.0 reset")
            elif verb == "QUIT":
                await say("221 2.0.0 bye")
                return
            else:
                await say("250 2.0.0 fine" if verb in ("NOOP", "HELO") else "500 5.5.1 unknown")

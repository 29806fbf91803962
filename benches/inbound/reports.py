"""What receivers send back: the reports, who sends them, and the receiver whose mail they are about."""
import secrets
import socket
import socketserver
import threading
import time

BACK = "bounces.load.test"

# Of a hundred: kind, how many, whether it is about mail of ours, event, entry in the suppression list, reply to RCPT.
KINDS = [
    ("dead", 40, True, ("returned", "failed", "user-unknown"), "hard-bounce", "250"),
    ("full", 15, True, ("returned", "failed", "mailbox-full"), None, "250"),
    ("complaint", 20, True, ("complained", "abuse"), "complaint", "250"),
    ("auto-reply", 10, True, ("replied", "auto-reply"), None, "250"),
    ("forged complaint", 5, False, None, None, "250"),
    ("forged bounce", 10, False, None, None, "550"),
]
TRACE = "".join(f"Received: from relay{n}.them.test (relay{n}.them.test [192.0.2.{n}])\r\n\tby mx.them.test with ESMTPS id x{n}"
                f";\r\n\tMon, 05 Jan 2026 10:00:0{n} +0000 (UTC)\r\n" for n in range(6))


class Report:
    """One of them. `event`: what must be told of it; `entry`: why its recipient must be suppressed."""

    def __init__(self, kind, mailed, event, entry, reply):
        self.kind, self.mailed, self.event, self.entry, self.reply = kind, mailed, event, entry, reply
        self.address = self.to = self.content = ""

    def write(self, address, path, chance):
        """About the mail to `address` that had `path` as its return path; forged ones make their own."""
        if not self.mailed:
            address = f"victim{secrets.token_hex(6)}@d0.test"
            letters = "0123456789abcdefghjkmnpqrstvwxyz"
            path = f"b+{''.join(chance.choice(letters) for _ in range(35))}0@{BACK}"
        self.address = address
        self.to = f"fbl@{BACK}" if "complaint" in self.kind else path
        original = (f"Return-Path: <{path}>\r\n{TRACE}From: load@load.test\r\nTo: {address}\r\nSubject: load\r\n"
                    f"Message-Id: <{secrets.token_hex(8)}@load.test>\r\n")
        self.content = self.text(original).replace("\r\n.", "\r\n..").encode()

    def text(self, original):
        if self.kind == "auto-reply":
            return (f"From: {self.address}\r\nAuto-Submitted: auto-replied\r\nSubject: Out of office\r\n{TRACE}\r\n"
                    "I am away until Monday.\r\n")
        if "complaint" in self.kind:
            kind = "message/feedback-report"
            machine = "Feedback-Type: abuse\r\nUser-Agent: them/1\r\nVersion: 1\r\n"
            report = "feedback-report"
        else:
            said = ("5.2.2", "552 5.2.2 mailbox full") if self.kind == "full" else ("5.1.1", "550 5.1.1 User unknown")
            kind, report = "message/delivery-status", "delivery-status"
            machine = (f"Reporting-MTA: dns; mx.them.test\r\nArrival-Date: Mon, 05 Jan 2026 10:00:00 +0000\r\n\r\n"
                       f"Final-Recipient: rfc822; {self.address}\r\nAction: failed\r\nStatus: {said[0]}\r\n"
                       f"Remote-MTA: dns; mx2.them.test\r\nDiagnostic-Code: smtp; {said[1]}\r\n")
        words = "This is the mail system at host mx.them.test.\r\n\r\nSomething is to be said about your message.\r\n" * 5
        return (f"{TRACE}From: MAILER-DAEMON@them.test\r\nTo: {self.to}\r\nSubject: Report\r\nMIME-Version: 1.0\r\n"
                f"Content-Type: multipart/report; report-type={report}; boundary=\"=_x\"\r\n\r\n--=_x\r\n\r\n{words}"
                f"--=_x\r\nContent-Type: {kind}\r\n\r\n{machine}\r\n--=_x\r\nContent-Type: text/rfc822-headers\r\n\r\n"
                f"{original}\r\n--=_x--\r\n")


def plan(count, chance):
    """So many reports, of every kind its share, in any order."""
    some = []
    for kind, share, *rest in KINDS:
        some += [Report(kind, *rest) for _ in range(count * share // 100)]
    while len(some) < count:
        some.append(Report(KINDS[0][0], *KINDS[0][2:]))
    chance.shuffle(some)
    return some


class Clients:
    """Hand reports in, one behind the other on each session. `rate`: a minute, by the clock and not by how fast they are
    taken; 0: as fast as may be. What was not answered is handed in again, as every mail server does."""

    def __init__(self, port, some, count, rate):
        self.port, self.some, self.gap = port, some, 60 / rate if rate else 0
        self.next = self.done = self.again = 0
        self.late, self.times, self.lock, self.start = 0.0, [], threading.Lock(), time.monotonic()
        self.failed = None
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def wait(self):
        for thread in self.threads:
            thread.join()
        if self.failed:
            raise self.failed

    def take(self):
        with self.lock:
            if self.next == len(self.some) or self.failed:
                return None
            self.next += 1
            report, due = self.some[self.next - 1], self.start + (self.next - 1) * self.gap
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        elif self.gap:
            self.late = max(self.late, -wait)
        return report

    def work(self):
        session, report = None, self.take()
        while report:
            try:
                session = session or Session(self.port)
                took = session.hand_in(report)
            except OSError:
                session = None
                with self.lock:
                    self.again += 1
                time.sleep(0.05)
                continue
            except AssertionError as error:
                self.failed = error
                return
            with self.lock:
                self.times.append(took)
                self.done += 1
            report = self.take()


class Session:
    """A client's connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.reply()
        self.say("EHLO mx.them.test\r\n")

    def reply(self):
        while True:
            line = self.file.readline()
            if not line:
                raise ConnectionError
            if line[3:4] != b"-":
                return line.decode()

    def say(self, text):
        self.socket.sendall(text.encode())
        return self.reply()

    def hand_in(self, report):
        """Seconds from the last octet of the content to the reply to it, or of RCPT where that is refused."""
        self.socket.sendall(f"MAIL FROM:<>\r\nRCPT TO:<{report.to}>\r\n".encode())
        self.reply()
        start = time.monotonic()
        answer = self.reply()
        assert answer.startswith(report.reply), (report.kind, report.to, answer)
        if report.reply != "250":
            took = time.monotonic() - start
            self.say("RSET\r\n")
            return took
        self.say("DATA\r\n")
        self.socket.sendall(report.content + b".\r\n")
        start = time.monotonic()
        answer = self.reply()
        if answer.startswith("4"):
            raise ConnectionError(answer)
        assert answer.startswith("250"), (report.kind, answer)
        return time.monotonic() - start


class Recorder:
    """A receiver that takes everything and remembers the return path of every recipient."""

    def __init__(self):
        self.paths = {}
        paths = self.paths

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self):
                self.wfile.write(b"220 them.test ESMTP\r\n")
                path = to = ""
                for line in self.rfile:
                    verb = line[:4].upper()
                    if verb == b"EHLO":
                        self.wfile.write(b"250-them.test\r\n250 PIPELINING\r\n")
                        continue
                    if verb == b"MAIL":
                        path = line.split(b"<")[1].split(b">")[0].decode()
                    elif verb == b"RCPT":
                        to = line.split(b"<")[1].split(b">")[0].decode()
                    elif verb == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        while self.rfile.readline() != b".\r\n":
                            pass
                        paths[to] = path
                    self.wfile.write(b"250 ok\r\n")

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

"""The daemon with something wrapped around it, and load that remembers what was promised to it."""

import pathlib
import signal
import smtplib
import threading
import time

from peers import Process, wait_until
from posthaste import BINARY, Posthaste


class Daemon(Posthaste):
    """`data`: where its data is instead; `wrap`: words in front of the command; `environment`: instead of ours."""

    def __init__(self, directory, config=None, data=None, wrap=(), environment=None):
        super().__init__(directory, config)
        self.wrap, self.environment = wrap, environment
        if data:
            self.data = pathlib.Path(data)
            self.config["data_dir"] = str(data)

    def launch(self):
        """Starts it without waiting."""
        self.write()
        self.process = Process([*self.wrap, BINARY, "serve", "--config", self.file],
                               self.directory / "posthaste.log", env=self.environment)
        return self

    def start(self, timeout=30):
        self.launch()
        wait_until(lambda: self.up() or not self.process.running(), timeout, "posthaste is ready")
        assert self.process.running(), self.process.output()
        return self

    def kill(self):
        """SIGKILL."""
        if self.process.running():
            self.process.child.send_signal(signal.SIGKILL)
            self.process.child.wait()

    def reason(self):
        """Why /readyz says no; empty if it says yes."""
        status, text = self.get("/readyz")
        return "" if status == 200 else text

    def metric(self, name):
        """The sum of a metric's samples."""
        status, text = self.get("/metrics")
        assert status == 200, text
        lines = [line for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
        assert lines, name
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def verify(self):
        """What `posthaste spool verify` says, and whether it is content."""
        done = self.cli("spool", "verify", "--config", self.file, check=False)
        return done.stdout + done.stderr, done.returncode == 0

    def refused(self, recipient="refused@them.test", message=b"Subject: test\r\n\r\nhello\r\n"):
        """The reply that refuses a message, as (code, text); (250, b"") if none does."""
        try:
            with self.client() as session:
                session.sendmail("orders@shop.test", [recipient], b"From: orders@shop.test\r\n" + message)
        except smtplib.SMTPRecipientsRefused as error:
            return next(iter(error.recipients.values()))
        except smtplib.SMTPResponseException as error:
            return error.smtp_code, error.smtp_error
        return 250, b""


class Load:
    """Clients that hand over mail until stopped. `tried`: all recipients; `accepted`: those with a 250; `replies`: what else
    was said. `keyed`: each message has an idempotency key."""

    def __init__(self, daemon, clients=3, size=2000, pause=0.004, prefix="user", domain="them.test", keyed=False):
        self.daemon, self.size, self.pause, self.prefix, self.domain = daemon, size, pause, prefix, domain
        self.keyed, self.tried = keyed, []
        self.accepted, self.replies, self.halt = [], [], threading.Event()
        self.workers = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(clients)]
        for worker in self.workers:
            worker.start()

    def message(self, recipient):
        key = f"X-Posthaste-Idempotency-Key: {recipient}\r\n".encode() if self.keyed else b""
        body = b"A line that stands for the rest of it.\r\n" * (self.size // 40)
        return b"From: orders@shop.test\r\nSubject: x\r\n" + key + b"\r\n" + body

    def again(self, recipients):
        """Hands the same messages over once more, to the daemon as it runs now."""
        with self.daemon.client() as session:
            for recipient in recipients:
                session.sendmail("orders@shop.test", [recipient], self.message(recipient))

    def work(self, worker):
        number = 0
        while not self.halt.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.daemon.smtp, timeout=30) as session:
                    session.ehlo("application.shop.test")
                    while not self.halt.is_set():
                        number += 1
                        recipient = f"{self.prefix}{worker}-{number}@{self.domain}"
                        self.tried.append(recipient)
                        try:
                            session.sendmail("orders@shop.test", [recipient], self.message(recipient))
                            self.accepted.append(recipient)
                        except smtplib.SMTPRecipientsRefused as error:
                            self.replies.append(next(iter(error.recipients.values())))
                        except smtplib.SMTPResponseException as error:
                            self.replies.append((error.smtp_code, error.smtp_error))
                            if error.smtp_code == 421:
                                break
                        time.sleep(self.pause)
            except (smtplib.SMTPException, OSError):
                time.sleep(0.02)

    def wait(self, count, timeout=30):
        """Until so many more are accepted."""
        goal = len(self.accepted) + count
        wait_until(lambda: len(self.accepted) >= goal, timeout, f"{goal} accepted, have {len(self.accepted)}")

    def stop(self):
        """Everything that was accepted."""
        self.halt.set()
        for worker in self.workers:
            worker.join(40)
        return list(self.accepted)

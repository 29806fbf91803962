"""The daemon under test: a configuration of its own in a directory of its own, on free ports."""

import collections
import json
import os
import pathlib
import signal
import smtplib
import subprocess
import time
import urllib.error
import urllib.request

from peers import Process, free_port, listens, wait_until

BINARY = os.environ["POSTHASTE"]
TERMINAL = ("delivered", "bounced", "expired", "suppressed", "cancelled")


def toml(table, prefix=""):
    """A nested dict as TOML; a list of dicts becomes an array of tables."""
    lines, tables = [], []
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            tables += [f"[{name}]", toml(value, f"{name}.")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for each in value:
                tables += [f"[[{name}]]", toml(each, f"{name}.")]
        else:
            # JSON's strings, numbers, booleans and arrays are TOML too.
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines + tables) + "\n"


def merge(base, changes):
    """`base` with `changes` laid over it, table by table."""
    result = dict(base)
    for key, value in changes.items():
        known = result.get(key)
        result[key] = merge(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return result


class Posthaste:
    """A daemon. `config` is laid over a base that suits loopback and short tests."""

    def __init__(self, directory, config=None):
        self.directory = pathlib.Path(directory)
        ports = set()
        while len(ports) < 4:  # one is free again as soon as it was found
            ports.add(free_port())
        self.smtp, self.grpc, self.http, self.admin = ports
        self.file = self.directory / "posthaste.toml"
        self.data = self.directory / "data"
        self.data.mkdir(exist_ok=True)
        base = {
            "hostname": "mta.shop.test",
            "data_dir": str(self.data),
            "submission": {
                "smtp": {"listen": [f"127.0.0.1:{self.smtp}"]},
                "grpc": {"listen": [f"127.0.0.1:{self.grpc}"]},
                "http": {"listen": [f"127.0.0.1:{self.http}"]},
            },
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "delivery": {"allow_loopback": True},
            "retry": {"delay_min": "1s", "delay_max": "2s"},
        }
        self.config = merge(base, config or {})
        self.process = None

    def write(self, config=None):
        self.file.write_text(toml(config or self.config))

    def start(self):
        self.write()
        self.process = Process([BINARY, "serve", "--config", self.file], self.directory / "posthaste.log")
        try:
            wait_until(lambda: self.up() or not self.process.running(), 30, "posthaste is ready")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: /readyz says {self.get('/readyz')}\n{self.log()[-4000:]}") from error
        assert self.process.running(), self.process.output()
        return self

    def stop(self):
        """SIGTERM; the exit code."""
        return self.process.stop(grace=40)

    def signal(self, number=signal.SIGHUP):
        self.process.child.send_signal(number)

    def log(self):
        return self.process.output()

    # The control surface.

    def get(self, path):
        """(status, text) of a path on the admin port; (0, why) when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def up(self):
        return self.ready() and listens("127.0.0.1", self.smtp)

    def ready(self):
        return self.get("/readyz")[0] == 200

    def cli(self, *words, check=True):
        """A command of the program against this daemon."""
        return subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=30, check=check)

    # Mail in, events out.

    def client(self):
        """A greeted smtplib session."""
        session = smtplib.SMTP("127.0.0.1", self.smtp, timeout=30)
        session.ehlo("application.shop.test")
        return session

    def send(self, recipients, message=b"Subject: test\r\n\r\nhello\r\n", sender="orders@shop.test", **options):
        """Hands one message over as it is, in one transaction."""
        recipients = [recipients] if isinstance(recipients, str) else recipients
        if b"From:" not in message:
            message = b"From: The shop <orders@shop.test>\r\n" + message
        with self.client() as session:
            refused = session.sendmail(sender, recipients, message, **options)
        assert not refused, refused

    def events(self, recipient=None, names=None):
        """The event log so far, all files in order."""
        found = []
        files = sorted((self.data / "events").glob("*.jsonl*"), key=lambda path: (path.name == "events.jsonl", path))
        for path in files:
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    found.append(json.loads(line))
        return [event for event in found
                if recipient in (None, event.get("recipient")) and (names is None or event["event"] in names)]

    def wait_event(self, recipient, *names, timeout=30):
        """The first of these events for a recipient."""
        names = names or TERMINAL
        found = wait_until(lambda: self.events(recipient, names), timeout, f"{names} for {recipient}")
        return found[0]

    def wait_terminal(self, recipients, timeout=60):
        """The terminal events of all these recipients, by address; exactly one each."""
        wanted, deadline = set(recipients), time.monotonic() + timeout
        while True:
            ends = self.events(names=TERMINAL)
            missing = wanted - {end["recipient"] for end in ends}
            if not missing:
                # A recipient of one message ends once; reports to one sender are messages of their own.
                counted = collections.Counter((end["message_id"], end["recipient"]) for end in ends)
                doubled = [each for each, count in counted.items() if count > 1]
                assert not doubled, f"more than one end: {[e for e in ends if e['recipient'] == doubled[0][1]]}"
                return {end["recipient"]: end for end in ends}
            assert time.monotonic() < deadline, f"no end for {len(missing)} recipients, such as {sorted(missing)[:5]}"
            time.sleep(0.05)

"""Builds programs, and drives the daemon under one of valgrind's tools: one message of 10 KB at a time."""

import json
import os
import pathlib
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent

BODY = b"".join([
    b"From: Ann Lee <ann@us.example>\r\nTo: Bob <bob@them.example>\r\nSubject: Your order has been sent\r\n",
    b"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@us.example>\r\n\r\n",
    b"It left our warehouse this morning, and will be with you in two or three days.\r\n" * 126,
])


def build(kind, name):
    """The path of a program. One at a time: what only tests want of a library must not get into the daemon."""
    command = ["cargo", "build", "--release", "--locked", kind, name, "--message-format=json-render-diagnostics"]
    out = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout
    # With a bench cargo makes the daemon, too, in whatever order.
    made = [line for line in map(json.loads, out.splitlines()) if line.get("executable")]
    return next(line["executable"] for line in made if line["target"]["name"] == name)


def valgrind(tool, out, *command):
    """`command` under a tool that writes what it found to `out`."""
    # Threads by turns: else one that spins for what another one is making does so for a whole slice, or for many; the daemon may then
    # not even start within a minute.
    return ["valgrind", f"--tool={tool}", "--fair-sched=yes", f"--{tool}-out-file={out}", "--quiet", *map(str, command)]


class Receiver(socketserver.StreamRequestHandler):
    """A receiver that takes everything."""

    def handle(self):
        say = self.wfile.write
        say(b"220 mx ESMTP\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                say(b"250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                say(b"354 go ahead\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                say(b"250 2.0.0 ok\r\n")
                self.server.taken.release()
            elif verb == b"QUIT":
                return say(b"221 2.0.0 bye\r\n")
            else:
                say(b"250 2.0.0 ok\r\n")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def submit(port, messages, receiver):
    """One after the other: each is with the receiver before the next begins."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = client.makefile("rb")

        def ask(octets, replies_wanted=1):
            client.sendall(octets)
            for _ in range(replies_wanted):
                while (line := replies.readline())[3:4] == b"-":
                    pass
                if line[:1] not in b"23":
                    sys.exit(f"the daemon says {line!r}")

        ask(b"")
        ask(b"EHLO app1.us.example\r\n")
        for _ in range(messages):
            ask(b"MAIL FROM:<bounces@us.example>\r\nRCPT TO:<bob@them.example>\r\nDATA\r\n", 3)
            ask(BODY + b".\r\n")
            if not receiver.taken.acquire(timeout=60):
                sys.exit("a message did not arrive")
        ask(b"QUIT\r\n")


def run_daemon(command, messages, folder):
    """Runs the daemon, begun by `command`, until it has delivered so many messages, and ends it as systemd would."""
    receiver = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Receiver)
    receiver.daemon_threads, receiver.taken = True, threading.Semaphore(0)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    port, admin, data = free_port(), free_port(), folder / f"data.{messages}"
    config = folder / "posthaste.toml"
    config.write_text(f"""
hostname = "mta1.us.example"
data_dir = "{data}"
[submission.smtp]
listen = ["127.0.0.1:{port}"]
[spool]
disk_free_min = 0
[admin]
listen = "127.0.0.1:{admin}"
[delivery]
idle_timeout = "10m"
[[route]]
match = "*"
relay = ["127.0.0.1:{receiver.server_address[1]}"]
""")
    # One worker: two take tasks from each other, and how often depends on the moment.
    environment = {**os.environ, "TOKIO_WORKER_THREADS": "1", "RUST_LOG": "error"}
    daemon = subprocess.Popen([*command, "serve", "--config", str(config)], env=environment)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if daemon.poll() is not None:
                sys.exit("the daemon did not start")
            time.sleep(0.1)
        else:
            sys.exit("the daemon does not listen after a minute")
        submit(port, messages, receiver)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
        receiver.shutdown()
        receiver.server_close()

"""The processes around the mail server: adapter, sink, name server, source."""
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.abspath(os.environ.get("BENCH_CACHE", os.path.join(HERE, ".cache")))
TOOLS = os.path.join(HERE, "tools", "target", "release")
LISTEN_PORT = 2525
NAME_SERVER = "127.0.0.1:53"
# With MX from DNS the sink must be on port 25, the only one that every peer can be brought to use.
SINK_PORT, SINK_PORT_MX = 2526, 25


def wait_for(what, seconds, test):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if test():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{what}: not within {seconds} s")


def greets(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.settimeout(5)
        greeted = client.recv(100).startswith(b"220")
        client.sendall(b"QUIT\r\n")
        return greeted


def adapter(peer):
    return os.path.join(HERE, "adapters", peer)


def ask_adapter(peer, word, work="/nonexistent"):
    env = dict(os.environ, CACHE=CACHE, BENCH_IN_ROOT=os.path.join(HERE, "lib", "in-root"), WORK=work)
    return subprocess.run([adapter(peer), word], env=env, capture_output=True, text=True, timeout=60).stdout.strip()


class Server:
    """The mail server under measure, in its cgroup."""

    def __init__(self, peer, o, work, group, log):
        self.peer, self.group, self.log = peer, group, log
        self.port = o.sink_port if peer == "none" else LISTEN_PORT
        self.env = dict(
            os.environ, WORK=work, CACHE=CACHE, BENCH_IN_ROOT=os.path.join(HERE, "lib", "in-root"),
            LISTEN_PORT=str(LISTEN_PORT), SINK="" if o.domains else f"127.0.0.1:{o.sink_port}",
            DNS=NAME_SERVER if o.domains else "", TLS=str(int(o.tls)), DKIM=str(int(o.dkim)),
            CONNECTIONS=str(o.connections), WAITING=str(int(o.waiting > 0)))

    def start(self, patience=30):
        """Returns the seconds until it greets."""
        start = time.monotonic()
        self.process = subprocess.Popen([adapter(self.peer), "start"], env=self.env, stdout=self.log, stderr=self.log,
                                        preexec_fn=self.group.join)
        wait_for(f"{self.peer} greeting on port {self.port}", patience, lambda: greets(self.port))
        return time.monotonic() - start

    def stop(self, patience):
        """Returns the seconds until every process is gone."""
        took = self.group.end(patience)
        self.process.wait()
        return took


def elsewhere():
    """Run by a part before it becomes its program. It stands for another machine, which the server would not have to make
    room for at each packet: like a batch job it waits for its turn on the cores instead of taking them when it is woken."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class Sink:
    def __init__(self, o, work, log):
        self.control, self.work, self.port = os.path.join(work, "sink.control"), work, o.sink_port
        command = [f"{TOOLS}/sink", "--listen", f"0.0.0.0:{o.sink_port}", "--control", self.control]
        if o.tls:
            command += ["--cert", f"{CACHE}/sink.pem", "--key", f"{CACHE}/sink.key"]
        if o.chunking:
            command += ["--chunking"]
        if o.rtt:
            command += ["--rtt-ms", str(o.rtt)]
        if o.waiting:
            command += ["--defer", "wait"]
        self.process = subprocess.Popen(command, stderr=log, preexec_fn=elsewhere)
        self.pid = self.process.pid
        wait_for("the sink", 10, lambda: greets(self.port))

    def ask(self, line):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(self.control)
            client.sendall(line.encode() + b"\n")
            return json.loads(client.makefile().readline())

    def stats(self):
        return self.ask("stats")

    def times(self):
        """When each message came first: {number: ns}."""
        path = os.path.join(self.work, "sink.times")
        self.ask(f"times {path}")
        with open(path, "rb") as file:
            return dict(struct.iter_unpack("<QQ", file.read()))

    def end(self):
        self.process.kill()
        self.process.wait()


class Names:
    """The name server, if the run wants one."""

    def __init__(self, o, log):
        self.process = None
        if o.domains:
            command = [f"{TOOLS}/names", "--listen", NAME_SERVER, "--domains", str(o.domains), "--sites", str(o.sites),
                       "--ttl", str(o.ttl)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                            preexec_fn=elsewhere)
            self.pid = self.process.pid

    def end(self):
        """Returns how many queries came."""
        if not self.process:
            return 0
        out, _ = self.process.communicate(timeout=10)
        return json.loads(out or b'{"queries":0}')["queries"]


class Source:
    """One load on the server. A thread waits for its end, to have its CPU time and the instant."""

    def __init__(self, o, port, messages, log, work, first=0, user="u", rcpt=None, speak=None, sessions=None,
                 per_conn=None):
        self.times_path = os.path.join(work, f"source.{first}.times")
        sessions = min(sessions or o.sessions, messages)
        env = dict(os.environ)
        if o.source == "smtp-source":
            env["LD_LIBRARY_PATH"] = f"{CACHE}/postfix/usr/lib/postfix"
            command = [f"{CACHE}/postfix/usr/sbin/smtp-source", "-d", "-s", str(sessions), "-m", str(messages),
                       "-l", str(o.size), "-f", "load@load.test", "-t", "user@sink.test", f"127.0.0.1:{port}"]
        else:
            command = [f"{TOOLS}/load", "--to", f"127.0.0.1:{port}", "--messages", str(messages),
                       "--sessions", str(sessions), "--size", str(o.size), "--domains", str(o.domains),
                       "--per-conn", str(per_conn or o.per_conn), "--first-id", str(first),
                       "--rcpt", str(rcpt or o.rcpt_per_message),
                       "--user", user, "--speak", speak or o.speak, "--window", str(o.window),
                       "--times", self.times_path]
        self.status = self.usage = self.end_ns = None
        self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, preexec_fn=elsewhere)
        self.waiter = threading.Thread(target=self._reap)
        self.waiter.start()

    def _reap(self):
        _, status, self.usage = os.wait4(self.process.pid, 0)
        self.end_ns = time.time_ns()
        self.status = self.process.returncode = os.waitstatus_to_exitcode(status)

    def wait(self, seconds):
        self.waiter.join(seconds)
        if self.status is None:
            self.kill()
            raise RuntimeError(f"the source was not done within {seconds:.0f} s")
        if self.status:
            raise RuntimeError(f"the source failed (exit {self.status})")

    def kill(self):
        if self.status is None:
            # Not `Popen.kill`, which would take the exit status, and with it the CPU time, from the waiter.
            os.kill(self.process.pid, signal.SIGKILL)
        self.waiter.join()

    def cpu(self):
        return self.usage.ru_utime + self.usage.ru_stime

    def times(self):
        """(number, start of content, 250) of each message accepted, ns."""
        try:
            with open(self.times_path, "rb") as file:
                return list(struct.iter_unpack("<QQQ", file.read()))
        except OSError:
            return []

"""One run: start everything, warm up, measure, check, stop everything."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

from . import parts, waiting
from .machine import Disk, Group, cpu_of, cpu_of_all, file_system, wait_for_quiet

STALL = 60  # s without a message at the sink after which a run is given up
WARM_UP_ID = 10**9


class Instant:
    """All counters at one moment."""

    def __init__(self, group, disk, sink, names):
        self.server = group.cpu()
        self.all, self.stolen = cpu_of_all()
        self.sink = cpu_of(sink.pid)
        self.names = cpu_of(names.pid) if names.process else 0.0
        self.own = sum(os.times()[:2])
        self.written, self.flushes = disk.read()
        self.ns = time.time_ns()


def measure(peer, o, messages):
    """Returns the result as a dictionary of plain values; `ok` tells whether every message arrived as it should."""
    work = tempfile.mkdtemp(prefix="relay-bench-", dir=o.work)
    os.chmod(work, 0o755)
    ends = []
    result = dict(peer=peer, label=o.label, ok=False, when=time.strftime("%Y-%m-%dT%H:%M:%S"))
    with open(os.path.join(work, "harness.log"), "w+") as log:
        try:
            result.update(run(peer, o, messages, work, log, ends))
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            log.flush()
            log.seek(0)
            print(f"run: {peer}: {error}\n{log.read()[-2000:]}", file=sys.stderr)
            result["error"] = str(error)
        finally:
            if o.hold:
                input(f"run: {peer} stays up, its files are in {work}; Enter stops it ")
            for end in reversed(ends):
                end()
            if o.keep:
                print(f"run: the files of {peer} are in {work}", file=sys.stderr)
            else:
                shutil.rmtree(work, ignore_errors=True)
    return result


def run(peer, o, messages, work, log, ends):
    group = Group()
    ends.append(group.remove)
    sink = parts.Sink(o, work, log)
    ends.append(sink.end)
    names = parts.Names(o, log)
    ends.append(names.end)
    server = parts.Server(peer, o, work, group, log)
    start_s = server.start()
    result = dict(start_s=start_s)
    if o.waiting:
        result.update(waiting.fill(o, server, sink, group, log, work))
        if not messages:
            return dict(result, ok=result["waiting_attempts"] == 1, messages=0)
    if o.warmup:
        parts.Source(o, server.port, o.warmup, log, work, first=WARM_UP_ID).wait(60)
        expected = o.warmup * (1 if o.source == "smtp-source" else o.rcpt_per_message)
        parts.wait_for("the warm-up at the sink", 60, lambda: sink.stats()["recipients"] >= expected)
    wait_for_quiet(o.quiet, o.quiet_wait)
    disk = Disk(work)
    base = sink.stats()
    before = Instant(group, disk, sink, names)
    watchers = watch(o, group, log)
    ends.append(lambda: [stop_watching(process) for process in watchers])
    source = parts.Source(o, server.port, messages, log, work)
    ends.append(source.kill)
    recipients = messages * (1 if o.source == "smtp-source" else o.rcpt_per_message)
    follow(o, group, sink, source, base["recipients"] + recipients)
    at_end = Instant(group, disk, sink, names)
    time.sleep(0.5)  # The server's own bookkeeping counts too.
    after = Instant(group, disk, sink, names)
    stats = sink.stats()
    result.update(figures(o, messages, before, at_end, after, base, stats, source, group))
    result.update(checked(peer, o, messages, recipients, base, stats, source))
    result.update(latencies(o, source, sink) if o.source == "load" else {})
    result.update(load=os.getloadavg()[0], file_system=file_system(work), nice=o.nice)
    if not result["ok"]:
        print(f"run: {peer}: {result['delivered']} of {messages} messages, source exit {source.status}", file=sys.stderr)
    return result


def follow(o, group, sink, source, goal):
    """Waits until the sink has everything, the time is up or nothing moves; keeps the peaks of memory meanwhile."""
    until, turn = time.monotonic() + o.timeout, 0
    seen, moved = -1, time.monotonic()
    while time.monotonic() < until:
        now = sink.stats()["recipients"]
        if now != seen:
            seen, moved = now, time.monotonic()
        if source.end_ns and (now >= goal or source.status or time.monotonic() - moved > STALL):
            break
        if turn % 10 == 0:
            group.sample(pss=turn % 40 == 20)
        turn += 1
        time.sleep(0.05)
    source.kill()
    group.sample(pss=True)


def watch(o, group, log):
    """strace or perf on the server, if asked for; both slow it down, so such a run is not for timing."""
    pids = ",".join(str(pid) for pid in group.pids())
    watchers = []
    if o.strace:
        watchers.append(["strace", "-f", "-c", "-S", "calls", "-o", o.strace, "-p", pids])
    if o.perf:
        watchers.append(["perf", "record", "-q", "-F", "199", "-e", "cpu-clock", "--call-graph", "dwarf,16384", "-o", o.perf, "-p", pids])
    started = [subprocess.Popen(command, stdout=log, stderr=log) for command in watchers]
    if started:
        time.sleep(1)
    return started


def stop_watching(process):
    process.send_signal(2)
    process.wait()


def figures(o, messages, before, at_end, after, base, stats, source, group):
    count = max(1, messages)
    user, system = (after.server[i] - before.server[i] for i in (0, 1))
    sink_cpu, names_cpu, source_cpu = at_end.sink - before.sink, at_end.names - before.names, source.cpu()
    seconds = (at_end.ns - before.ns) / 1e9
    rest = at_end.all - before.all - (at_end.server[0] + at_end.server[1] - sum(before.server))
    rest -= source_cpu + sink_cpu + names_cpu + at_end.own - before.own
    return dict(
        messages=messages, size=o.size, sessions=o.sessions, connections=o.connections, tls=o.tls, dkim=o.dkim,
        source=o.source, speak=o.speak, window=o.window, chunking=o.chunking, rtt=o.rtt, domains=o.domains,
        sites=o.sites if o.domains else 0, rcpt_per_message=o.rcpt_per_message,
        accept_s=messages / ((source.end_ns - before.ns) / 1e9),
        done_s=messages / max(1e-9, (stats["last_ns"] - before.ns) / 1e9),
        cpu_ms=(user + system) / count * 1e3, cpu_user_ms=user / count * 1e3, cpu_system_ms=system / count * 1e3,
        parts_ms=(source_cpu + sink_cpu + names_cpu) / count * 1e3,
        pss_mb=group.peak_pss / 1e6, rss_mb=group.peak_rss / 1e6, processes=group.peak_processes,
        written_kb=(after.written - before.written) / count, flushes=(after.flushes - before.flushes) / count,
        sink_connections=stats["connections"] - base["connections"], sink_open_max=stats["max_open"],
        sink_addresses=stats["addresses"],
        others=max(0.0, rest) / seconds / os.cpu_count(),
        stolen=(at_end.stolen - before.stolen) / seconds / os.cpu_count())


def checked(peer, o, messages, recipients, base, stats, source):
    """The sink's books: everything exactly once, signed and encrypted if that was asked for."""
    got = {key: stats[key] - base[key] for key in ("messages", "recipients", "unique", "dkim", "tls", "bdat")}
    problems = []
    if source.status != 0:
        problems.append("source refused")
    if got["recipients"] != recipients:
        problems.append(f"{got['recipients']} of {recipients} recipients")
    if o.source == "load" and got["unique"] != messages:
        problems.append(f"{got['unique']} of {messages} messages")
    if o.dkim and got["dkim"] != got["messages"]:
        problems.append("unsigned messages")
    if o.tls and peer != "none" and got["tls"] != got["messages"]:
        problems.append("messages in the clear")
    return dict(ok=not problems, problems=problems, delivered=got["messages"], delivered_recipients=got["recipients"],
                by_bdat=got["bdat"])


def percentiles(values, scale):
    values = sorted(values)
    return {share: round(values[min(len(values) - 1, len(values) * share // 100)] / scale, 3) for share in (50, 95, 99)}


def latencies(o, source, sink):
    """Start of content to 250 at the source; from there to the sink. Negative where the message came first."""
    arrived, sent = sink.times(), source.times()
    delivered = [(arrived[number], end) for number, _, end in sent if number in arrived]
    if not delivered:
        return {}
    accept = percentiles((end - start for _, start, end in sent), 1e6)
    deliver = percentiles((there - end for there, end in delivered), 1e6)
    result = dict(accept_ms=accept, deliver_ms=deliver)
    if o.rtt:
        first, last = min(there for there, _ in delivered), max(there for there, _ in delivered)
        result["per_round_trip"] = (len(delivered) - 1) * o.rtt / max(1e-9, (last - first) / 1e6)
    return result

"""A queue full of recipients that wait: what they cost in memory, and how long the server takes to come back to them."""
import os
import time

from . import parts

FIRST_ID = 2 * 10**9


CACHES = "/proc/sys/vm/drop_caches"


def forget_files():
    """Writes back and drops what the system keeps of files. Says whether it may."""
    os.sync()
    try:
        with open(CACHES, "w") as caches:
            caches.write("1\n")
    except OSError:
        return False
    return True


def fill(o, server, sink, group, log, work):
    """Hands over `o.waiting` recipients whom the sink puts off, waits until every one was tried and waits for its next
    attempt, then stops and starts the server: once with its files in the page cache, once from the disk. Returns the figures."""
    before = group.pss()
    messages = -(-o.waiting // o.waiting_rcpt)
    recipients = messages * o.waiting_rcpt
    start = time.monotonic()
    source = parts.Source(o, server.port, messages, log, work, first=FIRST_ID, user="wait", rcpt=o.waiting_rcpt,
                          speak="data", sessions=20, per_conn=1000)
    source.wait(o.waiting_timeout)
    accepted = time.monotonic() - start
    parts.wait_for("the first attempt of every waiting recipient", o.waiting_timeout,
                   lambda: sink.stats()["deferred"] >= recipients)
    tried = time.monotonic() - start
    time.sleep(3)
    full = group.pss()
    group.sample(pss=True)
    peak = group.peak_pss
    stopped = server.stop(patience=60)
    ready = server.start(patience=120)
    time.sleep(1)
    again = group.pss()
    server.stop(patience=60)
    dropped = forget_files()
    cold = server.start(patience=120)
    put_off = sink.stats()["deferred"]
    # The peaks from here on are those of the load that follows.
    group.peak_rss = group.peak_pss = 0
    return dict(
        waiting=recipients, waiting_messages=messages, waiting_accept_s=messages / accepted,
        waiting_tried_s=recipients / tried, waiting_empty_mb=before / 1e6, waiting_pss_mb=full / 1e6,
        waiting_peak_mb=peak / 1e6, waiting_octets_each=(full - before) / recipients, waiting_stop_s=stopped,
        waiting_start_s=ready, waiting_again_mb=again / 1e6, waiting_attempts=put_off / recipients,
        **({"waiting_cold_s": cold} if dropped else {}))

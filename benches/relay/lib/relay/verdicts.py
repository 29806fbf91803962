"""What was measured beside what is to be reached, one line a goal."""
import re
import subprocess

from .table import median

PLAIN = "10240 octets, 20 sessions"
TLS, DKIM, CHUNKING = f"{PLAIN}, STARTTLS", f"{PLAIN}, DKIM RSA-2048", f"{PLAIN}, CHUNKING"
SMALL, LARGE = "2048 octets, 20 sessions", "102400 octets, 20 sessions"
LOCKSTEP, PIPELINED = "one client, lockstep", "one client, pipelined BDAT"
FAR_DATA, FAR_CHUNKING = "50 ms away, one connection, DATA", "50 ms away, one connection, CHUNKING"
MILLION = f"{SMALL}, 1000000 waiting"
DOMAINS, BEFORE_DOMAINS = f"{PLAIN}, 10000 domains on 200 sites, MX by DNS", "one relay, before 10000 domains"
TEN_EACH, BEFORE_TEN_EACH = "ten messages a domain", "one relay, before ten messages a domain"


def goals(runs, signature):
    """Pairs of a goal in words and its measure. A goal is a bound, a unit, and what was measured or None; `signature` is the
    CPU time of one RSA-2048 signature here in ms, if it is known."""
    of = lambda key, label, peer="posthaste": median(runs(peer, label), key)  # noqa: E731
    times = lambda label: quotient(of("done_s", label), of("done_s", label, "postfix"))  # noqa: E731
    peak = lambda *labels: highest(runs("posthaste", label) for label in labels)  # noqa: E731
    one_each, few = f"{MILLION}, a message each", f"{SMALL}, 1000 waiting, a message each"
    many, few_of_many = f"{MILLION}, 100 a message", f"{SMALL}, 1000 waiting, 100 a message"
    return [
        ("CPU a message, plain", "<=", 0.20, "ms", of("cpu_ms", PLAIN)),
        ("CPU a message, STARTTLS to the sink", "<=", 0.22, "ms", of("cpu_ms", TLS)),
        ("CPU a message, RSA-2048 signed", "<=", signature and signature + 0.25, "ms", of("cpu_ms", DKIM)),
        ("end to end, plain", ">=", 12, "x Postfix", times(PLAIN)),
        ("end to end, plain, CHUNKING", ">=", 12, "x Postfix", times(CHUNKING)),
        ("end to end, STARTTLS", ">=", 12, "x Postfix", times(TLS)),
        ("end to end, RSA-2048 signed", ">=", 10, "x Postfix", times(DKIM)),
        ("end to end, 2 KB", ">=", 12, "x Postfix", times(SMALL)),
        ("end to end, 100 KB", ">=", 6, "x Postfix", times(LARGE)),
        ("one client, pipelining", ">=", 1000, "/s", of("accept_s", PIPELINED)),
        ("one client, without", ">=", 200, "/s", of("accept_s", LOCKSTEP)),
        ("peak memory (PSS)", "<=", 80, "MB", peak(PLAIN, TLS, DKIM, CHUNKING, SMALL, LARGE, LOCKSTEP, PIPELINED)),
        ("messages per round trip, CHUNKING", ">=", 0.95, "", of("per_round_trip", FAR_CHUNKING)),
        ("messages per round trip, DATA", ">=", 0.48, "", of("per_round_trip", FAR_DATA)),
        ("1,000,000 waiting, a message each: memory", "<=", 250, "MB", of("waiting_peak_mb", one_each)),
        ("the same, after a restart", "<=", 250, "MB", of("waiting_again_mb", one_each)),
        ("the same: start-up", "<=", 8, "s", of("waiting_start_s", one_each)),
        ("the same: start-up from a cold disk", "<=", 8, "s", of("waiting_cold_s", one_each)),
        ("the same: rate to that with 1,000", ">=", 0.9, "", quotient(of("done_s", one_each), of("done_s", few))),
        ("1,000,000 waiting, 100 a message: memory", "<=", 250, "MB", of("waiting_peak_mb", many)),
        ("the same: start-up from a cold disk", "<=", 8, "s", of("waiting_cold_s", many)),
        ("the same: rate to that with 1,000", ">=", 0.9, "", quotient(of("done_s", many), of("done_s", few_of_many))),
        ("10,000 domains, ten messages each: rate to one relay", ">=", 0.8, "",
         quotient(of("done_s", TEN_EACH), of("done_s", BEFORE_TEN_EACH))),
        ("10,000 domains, two messages each: rate to one relay", ">=", 0.8, "",
         quotient(of("done_s", DOMAINS), of("done_s", BEFORE_DOMAINS))),
    ]


def quotient(one, other):
    return one / other if one is not None and other else None


def highest(of_labels):
    peaks = [run["pss_mb"] for runs in of_labels for run in runs]
    return max(peaks, default=None)


def signature_ms():
    """CPU time of one RSA-2048 signature by openssl, which is what signing comes down to; None without openssl."""
    try:
        speed = subprocess.run(["openssl", "speed", "-seconds", "2", "rsa2048"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^rsa 2048 bits (\d+\.\d+)s", speed.stdout.replace("  ", " "), re.MULTILINE)
    return 1e3 * float(found[1]) if found else None


def show(results, signature):
    """The table. Goals of which there is no run are left out. Returns how many are missed."""
    def runs(peer, label):
        return [r for r in results if r["ok"] and r["peer"] == peer and r["label"] == label]

    missed = 0
    print("\n| goal | to reach | measured | |\n| --- | --- | --- | --- |")
    for name, way, bound, unit, measured in goals(runs, signature):
        if measured is None or bound is None:
            continue
        reached = measured <= bound if way == "<=" else measured >= bound
        missed += not reached
        digits = 3 if bound < 2 else 1
        told = " ".join(f"{measured:.{digits}f} {unit}".split())
        print(f"| {name} | {way} {bound:.4g} {unit} | {told} | {'reached' if reached else 'MISSED'} |")
    return missed

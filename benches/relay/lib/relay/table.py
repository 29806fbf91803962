"""Prints results: medians over the rounds, ratios to the reference within the same runs."""
import os
import statistics

CORES_MS = 1e3 * os.cpu_count()


def median(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def spread(runs, key, form="%.0f"):
    values = [run[key] for run in runs]
    text = form % statistics.median(values)
    return text if len(values) == 1 else f"{text} ({form % min(values)}..{form % max(values)})"


def ratio(runs, reference, key):
    ours, theirs = median(runs, key), reference and median(reference, key)
    return "%.2f" % (ours / theirs) if ours is not None and theirs else "-"


def times(runs, key):
    """Percentiles 50/95/99: the median over the rounds of each."""
    values = [run[key] for run in runs if run.get(key)]
    if not values:
        return "-"
    # JSON turns the keys into text.
    plain = [{int(share): number for share, number in value.items()} for value in values]
    return "/".join("%.1f" % statistics.median(value[share] for value in plain) for share in (50, 95, 99))


# Heading, what to show it for, and its text for the runs of one peer and those of the reference.
COLUMNS = [
    ("accept/s", "accept_s", lambda r, ref: "%.0f" % median(r, "accept_s")),
    ("done/s (min..max)", "done_s", lambda r, ref: spread(r, "done_s")),
    ("x ref", "done_s", lambda r, ref: ratio(r, ref, "done_s")),
    ("CPU ms/msg (user+sys)", "cpu_ms", lambda r, ref: "%.3f (%.3f+%.3f)" % tuple(
        median(r, key) for key in ("cpu_ms", "cpu_user_ms", "cpu_system_ms"))),
    ("x ref", "cpu_ms", lambda r, ref: ratio(r, ref, "cpu_ms")),
    ("parts ms/msg", "parts_ms", lambda r, ref: "%.3f" % median(r, "parts_ms")),
    ("CPU-bound/s", "parts_ms", lambda r, ref: "%.0f" % (CORES_MS / max(
        1e-3, median(r, "cpu_ms") + median(r, "parts_ms")))),
    ("per round trip", "per_round_trip", lambda r, ref: spread(r, "per_round_trip", "%.3f")),
    ("content to 250 ms", "accept_ms", lambda r, ref: times(r, "accept_ms")),
    ("250 to sink ms", "deliver_ms", lambda r, ref: times(r, "deliver_ms")),
    ("PSS MB", "pss_mb", lambda r, ref: "%.0f" % max(run["pss_mb"] for run in r)),
    ("RSS MB", "rss_mb", lambda r, ref: "%.0f" % max(run["rss_mb"] for run in r)),
    ("disk KB/msg", "written_kb", lambda r, ref: "%.1f" % median(r, "written_kb")),
    ("flush/msg", "flushes", lambda r, ref: "%.2f" % median(r, "flushes")),
    ("conns", "sink_connections", lambda r, ref: "%.0f" % median(r, "sink_connections")),
    ("waiting", "waiting", lambda r, ref: "%.0f" % median(r, "waiting")),
    ("waiting: PSS MB (peak)", "waiting", lambda r, ref: "%.0f (%.0f)" % (
        median(r, "waiting_pss_mb"), median(r, "waiting_peak_mb"))),
    ("octets each", "waiting", lambda r, ref: "%.0f" % median(r, "waiting_octets_each")),
    ("stop s", "waiting", lambda r, ref: "%.2f" % median(r, "waiting_stop_s")),
    ("start s", "waiting", lambda r, ref: "%.2f" % median(r, "waiting_start_s")),
    ("cold start s", "waiting_cold_s", lambda r, ref: "%.2f" % median(r, "waiting_cold_s")),
    ("PSS after MB", "waiting", lambda r, ref: "%.0f" % median(r, "waiting_again_mb")),
    ("others CPU", "others", lambda r, ref: "%.0f%%" % (100 * median(r, "others"))),
]


def reference_of(results):
    """Postfix if it took part, else whoever came first."""
    peers = [result["peer"] for result in results if result["ok"] and result["peer"] != "none"]
    chosen = "postfix" if "postfix" in peers else next(iter(peers), None)
    return [result for result in results if result["ok"] and result["peer"] == chosen]


def show(results):
    """One table of all results of one label."""
    reference = reference_of(results)
    columns = [column for column in COLUMNS if any(column[1] in result for result in results)]
    rows = [["peer", "runs"] + [column[0] for column in columns]]
    for peer in dict.fromkeys(result["peer"] for result in results):
        good = [result for result in results if result["peer"] == peer and result["ok"]]
        bad = sum(1 for result in results if result["peer"] == peer and not result["ok"])
        runs = f"{len(good)}" + (f" (+{bad} failed)" if bad else "")
        cells = []
        for _, key, text in columns:
            some = [result for result in good if key in result]
            cells.append(text(some, reference if peer != "none" else None) if some else "-")
        rows.append([peer, runs] + cells)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def show_all(results):
    """A table for each label, in the order they came."""
    for label in dict.fromkeys(result.get("label") for result in results):
        print(f"\n{label or 'results'}\n")
        show([result for result in results if result.get("label") == label])

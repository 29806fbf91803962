"""flufl.bounce, Mailman's parser, on the bounces of DIR, counted as `posthaste bounce score` counts.

baseline.py DIR   holds expected.tsv and its messages; prints the figures of docs/bounces.md
"""

import csv
import email
import sys
from pathlib import Path

from flufl.bounce import all_failures


def failures(path):
    """The addresses that failed or are delayed, in lower case."""
    temporary, permanent = all_failures(email.message_from_bytes(path.read_bytes()))
    return {address.decode("utf-8", "replace").lower() for address in {*temporary, *permanent}}


def names(row):
    """The addresses that count for a row."""
    return {name.strip("<> ").lower() for name in [row["recipient"], *row["recipient_alt"].split(",")]} - {""}


def count(directory, wanted=lambda file: True):
    """Figures by name: [how many, of how many]."""
    with open(directory / "expected.tsv", encoding="utf-8", newline="\n") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    files = {}
    for row in rows:
        if wanted(row["file"]):
            files.setdefault(row["file"], []).append(row)
    figures = {"detected": [0, 0], "recipients": [0, 0], "ordinary": [0, 0], "auto-replies": [0, 0]}

    def add(name, right):
        figures[name][0] += bool(right)
        figures[name][1] += 1

    for file, of_file in files.items():
        found = failures(directory / file)
        if of_file[0]["class"] == "none":
            name = {"not-bounce": "ordinary", "auto-reply": "auto-replies"}.get(of_file[0]["reason"])
            if name:
                add(name, found)
            continue
        add("detected", found)
        named = [names(row) for row in of_file]
        if any(named):
            add("recipients", all(found & one for one in named if one))
    return figures


def main():
    directory = Path(sys.argv[1])
    groups = {"all": lambda file: True, "independent": lambda file: not file.startswith("sisimai-")}
    for group, wanted in groups.items():
        shares = [f"{name} {right}/{of}" for name, (right, of) in count(directory, wanted).items()]
        print(f"{group}: {'; '.join(shares)}")


if __name__ == "__main__":
    main()

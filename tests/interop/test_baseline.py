"""What Mailman's bounce parser finds on the same messages: a baseline for ours."""

import os
import re
import subprocess
from pathlib import Path

import pytest

baseline = pytest.importorskip("baseline")

DATA = Path(__file__).parents[1] / "data" / "bounces"


def ours(directory):
    """The figures of `posthaste bounce score`, of both its halves."""
    said = subprocess.run(
        [os.environ["POSTHASTE"], "bounce", "score", directory], check=True, capture_output=True, text=True
    ).stdout
    halves = said.split("bounces, independent")[0].split("bounces, tuned on")[1]
    sums = {}
    for name in ("detected", "all recipients", "ordinary mail taken for a bounce", "auto-replies"):
        shares = re.findall(rf"{name} (\d+)/(\d+)", halves)
        assert len(shares) == 2, said
        sums[name] = [sum(int(share[part]) for share in shares) for part in (0, 1)]
    return sums


def test_we_find_what_mailman_finds():
    theirs, found = baseline.count(DATA), ours(DATA)
    assert found["detected"][1] == theirs["detected"][1] > 200
    assert found["all recipients"][1] == theirs["recipients"][1]
    assert found["detected"][0] >= theirs["detected"][0]
    assert found["all recipients"][0] >= theirs["recipients"][0]
    assert found["ordinary mail taken for a bounce"][0] <= theirs["ordinary"][0]
    assert found["auto-replies"][0] <= theirs["auto-replies"][0]

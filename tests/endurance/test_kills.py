"""SIGKILL at random moments: `tests/crash.rs`, as often as asked."""

import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import LONG

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent


def test_kills():
    if not shutil.which("cargo"):
        pytest.skip("cargo is not here")
    if not LONG:
        pytest.skip("short: `cargo test --test crash` does these 25 kills")
    subprocess.run(["cargo", "test", "--locked", "--test", "crash"], cwd=REPOSITORY, check=True, timeout=1200,
                   env={**os.environ, "POSTHASTE_KILLS": "200"})

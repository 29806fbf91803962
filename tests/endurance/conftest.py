"""What every test may ask for; all of it ends with the test, whether it failed or not."""

import importlib.util
import os
import pathlib
import random
import sys
import time

import pytest

INTEROP = pathlib.Path(__file__).resolve().parent.parent / "interop"
sys.path.insert(0, str(INTEROP))

# The interop suite's fixtures; its conftest bears the same name as this file.
spec = importlib.util.spec_from_file_location("interop_fixtures", INTEROP / "conftest.py")
interop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interop)
stack, sink, nsd, relay = interop.stack, interop.sink, interop.nsd, interop.relay

from daemon import Daemon, Load  # noqa: E402
from disk import Disk  # noqa: E402
from privileges import Lacking, refused  # noqa: E402

LONG = os.environ["ENDURANCE"] == "long"
SEED = os.environ.get("ENDURANCE_SEED") or str(time.time_ns())
STRICT = bool(os.environ.get("ENDURANCE_STRICT"))
# What may be skipped on any machine, and why that is well.
MAY_BE_SKIPPED = {"test_kills": "the short form is `cargo test --test crash`"}
skipped = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remembers who was skipped. In strict mode that is a failure, unless the machine refuses the plain try, too."""
    report = yield
    if report.skipped:
        reason = str(call.excinfo.value)
        refusal = refused(call.excinfo.value.privilege) if isinstance(call.excinfo.value, Lacking) else ""
        if STRICT and not refusal and item.originalname not in MAY_BE_SKIPPED:
            report.outcome, report.longrepr = "failed", f"skipped, though this machine can do it: {reason}"
        else:
            why = f"{reason}{refusal and f' (as is the plain try: {refusal})'}"
            skipped[item.nodeid] = " ".join(why.split())
    return report


def pytest_terminal_summary(terminalreporter):
    """Says what was not run, and keeps it for who ran us."""
    lines = [f"{name}: {why}" for name, why in skipped.items()]
    pathlib.Path(os.environ["ENDURANCE_TOOLS"], "not-run").write_text("".join(f"{line}\n" for line in lines))
    if lines:
        terminalreporter.section(f"{len(lines)} NOT RUN", sep="!", red=True)
        for line in lines:
            terminalreporter.line(line)


def daemons(place, stack):
    """`make(config, ...)`: a daemon, not started. Its log is shown when the test fails."""

    def make(config=None, **options):
        directory = place / f"posthaste{len(list(place.iterdir()))}"
        directory.mkdir()
        daemon = Daemon(directory, config, **options)

        def end():
            if daemon.process:
                daemon.kill()
                interop.print_log(daemon)

        stack.callback(end)
        return daemon

    return make


@pytest.fixture(autouse=True)
def seed(request):
    """Repeats a test's choices (not its timing); shown when it fails."""
    random.seed(f"{SEED} {request.node.name}")
    print(f"ENDURANCE_SEED={SEED}")


@pytest.fixture
def make(tmp_path, stack):
    return daemons(tmp_path, stack)


@pytest.fixture
def load(stack):
    """`load(daemon, ...)`: running clients."""

    def start(*arguments, **options):
        load = Load(*arguments, **options)
        stack.callback(load.stop)
        return load

    return start


@pytest.fixture
def disk(tmp_path, stack):
    """`disk(...)`: a file system of our own, mounted."""

    def make(**options):
        made = Disk(tmp_path / f"disk{len(list(tmp_path.iterdir()))}", **options)
        stack.callback(made.remove)
        return made

    return make

"""The power goes, on a real file system. What the disk holds at that moment must be enough."""

import collections
import random
import signal
import time

from conftest import LONG, relay
from daemon import wait_until

CUTS = 20 if LONG else 4
CONFIG = {"spool": {"segment_size": "1MiB", "disk_free_min": "2MiB"}}


def check(daemon, target, accepted, what):
    """Nothing that was acknowledged before is missing: its end is on record, or it is delivered now."""
    daemon.write()
    said, clean = daemon.verify()
    assert clean, f"{what}: {said}"
    daemon.start(timeout=60)
    ends = daemon.wait_terminal(accepted)
    assert {ends[recipient]["event"] for recipient in accepted} <= {"delivered"}, what
    assert not [mail for mail in target.mails if is_damaged(mail)], f"{what}: a content is not what was sent"
    missing = set(accepted) - {recipient for mail in target.mails for recipient in mail.recipients}
    assert not missing, f"{what}: {len(missing)} acknowledged and lost, such as {sorted(missing)[:5]}"


def is_damaged(mail):
    """Whether the body is another than that of every message here."""
    return mail.content.partition(b"\r\n\r\n")[2] != b"A line that stands for the rest of it.\r\n" * (2000 // 40)


def test_power_cut(disk, make, sink, load):
    """The file system is shut down under the running daemon without writing even its journal, then mounted anew."""
    place, target = disk(), sink()
    daemon = make({**relay(target), **CONFIG}, data=place.path / "data").start()
    accepted = []
    for cut in range(CUTS):
        clients = load(daemon, prefix=f"cut{cut}-")
        clients.wait(random.randrange(20, 120))
        place.cut()
        daemon.kill()
        # Those whose sync was under way when it went too: a 250 is a 250.
        accepted += clients.stop()
        place.again()
        check(daemon, target, accepted, f"cut {cut}")


def test_power_cut_while_mail_waits(disk, make, sink, load):
    """The same with a receiver that puts everything off: states of recipients are what is being written."""
    held = True
    place, target = disk(), sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    daemon = make({**relay(target), **CONFIG}, data=place.path / "data").start()
    accepted = []
    for cut in range(2):
        clients = load(daemon, prefix=f"wait{cut}-")
        clients.wait(60)
        wait_until(lambda: len(daemon.events(names=["deferred"])) > 30, 20, "some deferred")
        place.cut()
        daemon.kill()
        accepted += clients.stop()
        place.again()
        daemon.start(timeout=60)
    daemon.kill()
    held = False
    check(daemon, target, accepted, "after two cuts")


def test_power_cut_and_all_sent_again(disk, make, sink, load):
    """Clients with idempotency keys send everything again after each cut, what was acknowledged and what was not: the
    ledger knows every key that the spool has, so each message is there once."""
    place, target = disk(), sink()
    daemon = make({**relay(target), **CONFIG}, data=place.path / "data").start()
    tried = []
    for cut in range(CUTS):
        clients = load(daemon, prefix=f"key{cut}-", keyed=True)
        clients.wait(random.randrange(20, 120))
        place.cut()
        daemon.kill()
        clients.stop()
        place.again()
        said, clean = daemon.verify()
        assert clean, f"cut {cut}: {said}"
        daemon.start(timeout=60)
        tried += clients.tried
        clients.again(tried)
    daemon.wait_terminal(tried)
    ends = collections.Counter(event["recipient"] for event in daemon.events(names=["delivered"]))
    twice = [recipient for recipient in tried if ends[recipient] != 1]
    assert not twice, f"{len(twice)} of {len(tried)} are not there exactly once, such as {twice[:5]}"
    daemon.kill()
    check(daemon, target, tried, "at the end")


def test_image_copied_while_running(disk, make, sink, load, stack):
    """The disk's image is copied at random moments under load; the copy alone must carry on. The daemon is stopped (SIGSTOP) for as
    long as the copying takes, so all its 250s are older. The kernel is not: what it writes back meanwhile may be in the
    copy or not, as on a disk that reorders what no sync has told it to keep. The file system's own journal must bear that."""
    place, target = disk(size="96M"), sink()
    daemon = make({**relay(target), **CONFIG}, data=place.path / "data").start()
    clients = load(daemon)
    for number in range(CUTS // 2):
        clients.wait(random.randrange(10, 100))
        time.sleep(random.random() * 0.05)
        before = list(clients.accepted)
        daemon.signal(signal.SIGSTOP)
        copy = place.copy(f"copy{number}")
        daemon.signal(signal.SIGCONT)
        stack.callback(copy.remove)
        copy.attach()
        second = make({**relay(target), **CONFIG}, data=copy.path / "data")
        check(second, target, before, f"copy {number}")
        assert second.stop() == 0
    daemon.wait_terminal(clients.stop())

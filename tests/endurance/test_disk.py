"""The disk fails: full, without inodes, read-only, erring, slow, hanging."""

import collections
import os
import pathlib
import random
import subprocess
import time

import pytest
from conftest import LONG, relay
from daemon import wait_until
from disk import sh
from privileges import lacking

SMALL = {"spool": {"segment_size": "1MiB", "disk_free_min": "2MiB"}}
TOOLS = pathlib.Path(os.environ["ENDURANCE_TOOLS"])


def arrived(target):
    return {recipient for mail in target.mails for recipient in mail.recipients}


def whole(daemon, target, accepted):
    """Nothing that was acknowledged is lost, each has one end, and the spool has no damage."""
    ends = daemon.wait_terminal(accepted)
    assert {ends[recipient]["event"] for recipient in accepted} == {"delivered"}
    missing = set(accepted) - arrived(target)
    assert not missing, f"{len(missing)} never arrived, such as {sorted(missing)[:5]}"
    said, clean = daemon.verify()
    assert clean, said


def refuses(daemon, why, timeout=20):
    """New mail gets 452, and metric and readiness tell why; returns the reason."""
    wait_until(lambda: daemon.refused()[0] == 452, timeout, "a 452")
    assert b"try again later" in daemon.refused()[1]
    reason = wait_until(daemon.reason, timeout, "/readyz says no")
    assert daemon.metric("posthaste_spool_readonly") == 1
    assert why in reason, reason
    assert daemon.get("/healthz")[0] == 200
    return reason


def heals(daemon, load, timeout=20):
    wait_until(daemon.ready, timeout, "/readyz says yes again")
    assert daemon.metric("posthaste_spool_readonly") == 0
    load.wait(30)


def says_so(daemon):
    assert "the log takes no new records until this is mended" in daemon.log()
    assert "the log takes new records again" in daemon.log()


def test_disk_full(disk, make, sink, load):
    """Also: what was taken before goes on being delivered, and its ends are recorded."""
    place, target = disk(size="48M"), sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    held = True
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon)
    clients.wait(100)
    place.fill()
    refuses(daemon, "the disk is full")
    before = list(clients.accepted)
    held = False
    ends = daemon.wait_terminal(before)
    assert {ends[recipient]["event"] for recipient in before} == {"delivered"}
    (place.path / "filler").unlink()
    heals(daemon, clients)
    says_so(daemon)
    whole(daemon, target, clients.stop())


def mended(daemon, clients, target):
    """It heals, says so, and all that was taken is there once. Returns that."""
    heals(daemon, clients)
    says_so(daemon)
    accepted = clients.stop()
    sent_again(daemon, clients, accepted)
    whole(daemon, target, accepted)
    return accepted


def sent_again(daemon, clients, accepted):
    """Every message that was taken with a key is known by it, and is there once."""
    clients.again(accepted)
    daemon.wait_terminal(accepted)
    ends = collections.Counter(event["recipient"] for event in daemon.events(names=["delivered"]))
    wrong = [recipient for recipient in accepted if ends[recipient] != 1]
    assert not wrong, f"{len(wrong)} of {len(accepted)} are not there exactly once, such as {wrong[:5]}"


def test_disk_full_and_keys(disk, make, sink, load):
    """Submissions with idempotency keys get 452 too; those taken before are known when there is space again, also when the
    daemon was killed and started in between."""
    place, target = disk(size="48M"), sink()
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon, keyed=True)
    clients.wait(100)
    place.fill()
    refuses(daemon, "the disk is full")
    wait_until(lambda: clients.replies, 10, "a refusal of a key")
    daemon.kill()
    daemon.launch()
    wait_until(lambda: daemon.get("/healthz")[0] == 200 or not daemon.process.running(), 20, "it is up")
    assert daemon.process.running(), daemon.log()
    refuses(daemon, "the disk is full")
    (place.path / "filler").unlink()
    heals(daemon, clients)
    accepted = clients.stop()
    assert {code for code, _ in clients.replies} <= {451, 452}, clients.replies[:3]
    sent_again(daemon, clients, accepted)
    whole(daemon, target, accepted)


def test_ledger_on_a_broken_disk(disk, make, sink, load, tmp_path):
    """The ledger has a disk of its own, which turns read-only under load: mail goes on, as the spool keeps the keys until
    the ledger has them. Those taken before and after are known, also after a kill and a repair."""
    place, target = disk(size="64M", errors="remount-ro"), sink()
    daemon = make({**relay(target), **SMALL})
    (daemon.data / "ledger").symlink_to(place.path)
    daemon.start()
    clients = load(daemon, keyed=True)
    clients.wait(random.randrange(30, 100))
    place.trigger_error()
    wait_until(lambda: "the log takes no new records until this is mended" in daemon.log(), 20, "a word in the log")
    clients.wait(100)
    accepted = clients.stop()
    assert not clients.replies, clients.replies[:3]
    sent_again(daemon, clients, accepted)
    daemon.kill()
    place.again()
    daemon.start()
    sent_again(daemon, clients, accepted)
    whole(daemon, target, accepted)


def test_less_disk_free_than_demanded(disk, make, sink, load):
    place, target = disk(size="64M"), sink()
    daemon = make({**relay(target), "spool": {"segment_size": "1MiB", "disk_free_min": "20MiB"}},
                  data=place.path / "data").start()
    clients = load(daemon)
    clients.wait(50)
    place.fill(keep=15 << 20)
    refuses(daemon, "to be left free")
    (place.path / "filler").unlink()
    heals(daemon, clients)
    says_so(daemon)
    whole(daemon, target, clients.stop())


def test_disk_full_over_a_restart(disk, make, sink, load):
    """Started on a full disk, it delivers what it has and takes nothing until there is space."""
    place, target = disk(size="48M"), sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    held = True
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon)
    clients.wait(100)
    place.fill()
    refuses(daemon, "the disk is full")
    daemon.kill()
    held = False
    daemon.launch()
    wait_until(lambda: daemon.get("/healthz")[0] == 200 or not daemon.process.running(), 20, "it is up")
    assert daemon.process.running(), daemon.log()
    wait_until(lambda: set(clients.accepted) <= arrived(target), 20, "what waited is delivered")
    (place.path / "filler").unlink()
    heals(daemon, clients)
    whole(daemon, target, clients.stop())


def test_inodes_exhausted(disk, make, sink, load):
    """No new segment can be made; what is open and kept for reuse goes on for as long as it lasts."""
    place, target = disk(size="64M", features=("-N", "200")), sink()
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon, size=50_000)
    clients.wait(20)
    files = []
    with pytest.raises(OSError):
        for number in range(1000):
            files.append(place.path / f"file{number}")
            files[-1].touch()
    # Segments given back are used again, so that mail goes on; only who cannot must say so.
    clients.wait(40)
    target.verdict = lambda address, sender: "451 4.2.0 later"
    refuses(daemon, "space")
    target.verdict = lambda address, sender: None
    for file in files[:-1]:
        file.unlink()
    heals(daemon, clients)
    says_so(daemon)
    whole(daemon, target, clients.stop())


@pytest.mark.parametrize("run", range(10 if LONG else 2))
def test_read_only_after_an_error(disk, make, sink, load, run):
    """ext4 finds an error under load, while a sync is under way, and turns read-only, as most root file systems are told
    to. The kernel makes nothing of that writable again: deliveries go on, and after a repair and a restart nothing that
    got a 250, before or after, is missing."""
    place, target = disk(errors="remount-ro"), sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    held = True
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon, clients=6, pause=0)
    # Sometimes among the first segments, which are new, sometimes when files are used again.
    clients.wait(random.randrange(50, 800))
    place.trigger_error()
    refuses(daemon, "os error")
    accepted = clients.stop()
    held = False
    wait_until(lambda: set(accepted) <= arrived(target), 60, "what waited is delivered all the same")
    assert daemon.get("/healthz")[0] == 200
    daemon.stop()
    place.again()
    daemon.start()
    daemon.send("after@them.test")
    whole(daemon, target, [*accepted, "after@them.test"])


def test_eio_from_the_disk(disk, make, sink, load):
    """Most blocks can be neither written nor read; pages that did not reach the disk are dropped by the kernel. After it
    has healed, what is on the disk alone, read anew, has every acknowledged message and every event."""
    # No journal and one block group, whose tables lie in front of the limit: only the blocks of files fail, and the file
    # system itself goes on.
    place = disk(size="120M", features=("-b", "4096", "-N", "500", "-O", "^has_journal,^resize_inode"))
    place.occupy_front(16 << 20)
    target = sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    held = True
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon, size=10_000)
    clients.wait(100)
    place.limit(8 << 20)
    refuses(daemon, "os error")
    held = False
    # The event log must have tried, and failed, too.
    wait_until(lambda: "the event log cannot be synced" in daemon.log(), 10, "a word of the event log")
    time.sleep(1.2)
    place.limit(0)
    heals(daemon, clients)
    says_so(daemon)
    accepted = clients.stop()
    whole(daemon, target, accepted)
    assert daemon.stop() == 0
    place.again()
    whole(daemon, target, accepted)


def shim(tmp_path, order=""):
    """An environment in which each write and sync does as the file says: see faults.c."""
    orders = tmp_path / "faults"
    orders.write_text(order)
    environment = {**os.environ, "LD_PRELOAD": str(TOOLS / "faults.so"), "DISK_FAULT": str(orders)}
    if subprocess.run(["true"], env=environment).returncode:
        lacking("seccomp", "no filter of system calls")
    return orders, environment


def erring(make, sink, load, tmp_path, order):
    """While every deed of this kind fails nobody gets a 250; then all is as before, also for messages with keys."""
    orders, environment = shim(tmp_path)
    target = sink()
    daemon = make(relay(target), environment=environment).start()
    clients = load(daemon, keyed=True)
    clients.wait(50)
    orders.write_text(order)
    refuses(daemon, "Input/output error")
    settled = len(clients.accepted)
    time.sleep(1.5)
    assert len(clients.accepted) == settled, "a 250 that nothing on disk has earned"
    orders.write_text("")
    accepted = mended(daemon, clients, target)
    assert daemon.stop() == 0
    daemon.start()
    sent_again(daemon, clients, accepted)
    whole(daemon, target, accepted)


def test_eio_on_sync(make, sink, load, tmp_path):
    """Every sync of every file and folder fails, by whatever call: nobody gets a 250 that no sync has earned."""
    erring(make, sink, load, tmp_path, "error sync")


@pytest.mark.parametrize("part", ["/data/spool/", "/data/"])
def test_eio_on_write(make, sink, load, tmp_path, part):
    """Every write fails, to the spool's log alone, or also to event log, ledger and sled's files."""
    erring(make, sink, load, tmp_path, f"error write {part}")


def test_eio_on_write_to_the_event_log(make, sink, load, tmp_path):
    """Only the event log fails: mail goes on, and every end is told once it can be."""
    orders, environment = shim(tmp_path)
    target = sink()
    daemon = make(relay(target), environment=environment).start()
    clients = load(daemon)
    clients.wait(50)
    orders.write_text("error write /data/events/")
    wait_until(lambda: "the event log cannot be written" in daemon.log(), 20, "a word in the log")
    clients.wait(50)
    accepted = clients.stop()
    wait_until(lambda: set(accepted) <= arrived(target), 20, "all of it delivered")
    orders.write_text("")
    assert not clients.replies, clients.replies[:3]
    whole(daemon, target, accepted)


def test_read_only_for_a_while(make, sink, load, tmp_path):
    """The data folder turns read-only and writable again, as that of a virtual machine whose storage comes back: unlike ext4 after
    an error of its own, that needs nobody. What waits is delivered meanwhile."""
    orders, environment = shim(tmp_path)
    target = sink(verdict=lambda address, sender: "451 4.2.0 later" if held else None)
    held = True
    daemon = make({**relay(target), **SMALL}, environment=environment).start()
    clients = load(daemon, keyed=True)
    clients.wait(100)
    orders.write_text("read-only /data/")
    refuses(daemon, "Read-only file system")
    before = list(clients.accepted)
    held = False
    wait_until(lambda: set(before) <= arrived(target), 60, "what waited is delivered all the same")
    orders.write_text("")
    mended(daemon, clients, target)


def test_slow_disk(make, sink, load, tmp_path):
    """Every sync takes 2 s: slow, but all 20 clients share each, and nothing is refused."""
    orders, environment = shim(tmp_path)
    target = sink()
    daemon = make(relay(target), environment=environment).start()
    clients = load(daemon, clients=20)
    clients.wait(20)
    orders.write_text("delay 2000")
    time.sleep(2.1)
    before = len(clients.accepted)
    began = time.monotonic()
    clients.wait(40, timeout=20)
    assert time.monotonic() - began < 12, "syncs are not shared"
    assert len(clients.accepted) - before < 400, "a sync was not waited for"
    assert daemon.ready()
    orders.write_text("")
    assert not clients.replies, clients.replies[:3]
    whole(daemon, target, clients.stop())


def test_hanging_disk(disk, make, sink, load):
    """Writes and syncs hang for 3 s (a frozen file system), twice: everybody waits, nobody is refused or lost."""
    place, target = disk(), sink()
    daemon = make({**relay(target), **SMALL}, data=place.path / "data").start()
    clients = load(daemon, clients=10)
    for _ in range(2):
        clients.wait(30)
        place.freeze()
        try:
            time.sleep(0.3)
            stuck = len(clients.accepted)
            time.sleep(2.7)
            assert len(clients.accepted) == stuck, "a 250 while nothing could be written"
            assert daemon.get("/healthz")[0] == 200
        finally:
            place.thaw()
    clients.wait(50)
    whole(daemon, target, clients.stop())

"""Files that are not what they were: the daemon starts, says what is wrong, and delivers everything else."""

import os
import shutil

import pytest
from conftest import relay
from daemon import wait_until
from test_disk import arrived, whole

CONFIG = {"spool": {"segment_size": "1MiB"}}


def prepared(make, sink, load, count=120, size=20_000):
    """A killed daemon with waiting mail in several segments; what was accepted, and how to let it through."""
    hold = {"on": True}
    target = sink(verdict=lambda address, sender: "451 4.2.0 later" if hold["on"] else None)
    daemon = make({**relay(target), **CONFIG}).start()
    clients = load(daemon, size=size)
    clients.wait(count)
    accepted = clients.stop()
    wait_until(lambda: len({event["recipient"] for event in daemon.events(names=["deferred"])}) >= len(accepted), 30,
               "all of them deferred")
    daemon.kill()
    return daemon, target, accepted, lambda: hold.update(on=False)


def rest(daemon, target, accepted, lost):
    """All but so many of these at most arrive, as they were sent, and each that does has one end; others are taken as ever."""
    daemon.send("after@them.test")
    wanted = {*accepted, "after@them.test"}
    wait_until(lambda: len(wanted - arrived(target)) <= lost, 30, f"all but {lost} to arrive")
    daemon.wait_terminal(wanted & arrived(target))
    assert "after@them.test" in arrived(target)
    for mail in target.mails:
        lines = mail.content.partition(b"\r\n\r\n")[2].split(b"\r\n")
        assert set(lines) <= {b"", b"hello", b"A line that stands for the rest of it."}, "a damaged content was sent"


def segments(daemon):
    return sorted((daemon.data / "spool").glob("seg-*.log"))


def test_damaged_segment(make, sink, load):
    """A 4 KiB block in the middle of a segment is overwritten: a few messages are in it, all others arrive."""
    daemon, target, accepted, release = prepared(make, sink, load)
    with open(segments(daemon)[1], "r+b") as file:
        file.seek(512 << 10)
        file.write(os.urandom(4096))
    said, clean = daemon.verify()
    assert not clean and "damaged" in said and segments(daemon)[1].name in said, said
    release()
    daemon.start()
    assert daemon.ready() and "damaged" in daemon.log()
    rest(daemon, target, accepted, lost=2)


def noticed(daemon, file, why):
    """`spool verify` names the file; returns what must hold once the daemon has started."""
    said, clean = daemon.verify()
    assert not clean and file.name in said and why in said, said

    def at_start():
        assert daemon.ready()
        lines = [line for line in daemon.log().splitlines() if "the log is damaged" in line]
        assert any(file.name in line and why in line for line in lines), lines
        assert daemon.metric("posthaste_spool_damaged_total") >= 1

    return at_start


@pytest.mark.parametrize("which", [1, -1], ids=["second", "newest"])
def test_missing_segment(make, sink, load, which):
    """A file of the log is gone: its messages are lost, all others arrive, and the operator is told."""
    daemon, target, accepted, release = prepared(make, sink, load)
    assert daemon.verify()[1]
    gone = segments(daemon)[which]
    size = sum(1 for _ in accepted) * (1 << 20) // sum(file.stat().st_size for file in segments(daemon)) + 10
    gone.unlink()
    at_start = noticed(daemon, gone, "the file is missing")
    release()
    daemon.start()
    at_start()
    rest(daemon, target, accepted, lost=size)


@pytest.mark.parametrize("where", ["in a batch", "between two batches"])
def test_segment_cut_off(make, sink, load, where):
    """A file ends in the middle, as after a bad copy: the operator is told, also where the part that is left looks whole."""
    daemon, target, accepted, release = prepared(make, sink, load)
    file = segments(daemon)[1]
    cut = 600_001
    if where == "between two batches":
        # A batch starts on a multiple of 4096 with a record of the log's own.
        octets = file.read_bytes()
        starts = [at for at in range(500_000 // 4096 * 4096, 700_000, 4096) if octets[at:at + 4] == b"PR\x01\x80"]
        cut = starts[len(starts) // 2]
    os.truncate(file, cut)
    at_start = noticed(daemon, file, f"octets at {cut}: the file is cut off here")
    release()
    daemon.start()
    at_start()
    rest(daemon, target, accepted, lost=len(accepted) // 4)


def test_verify_beside_the_daemon(make, sink, load):
    """Segments are begun, freed and used again while they are checked: nothing of that is damage."""
    target = sink()
    daemon = make({**relay(target), **CONFIG}).start()
    clients = load(daemon, clients=6, size=20_000, pause=0)
    # Some whose content does not fit into what is read at once.
    large = load(daemon, clients=2, size=600_000, pause=0, prefix="large")
    for _ in range(12):
        clients.wait(60)
        said, clean = daemon.verify()
        assert clean, said
    whole(daemon, target, clients.stop() + large.stop())


@pytest.mark.parametrize("harm", ["removed", "torn", "garbage"])
def test_event_log(make, sink, load, harm):
    """It is written from the spool's log and stops nothing: a torn line is cut off and told again, garbage stays where it
    is, a new file takes the place of a missing one."""
    daemon, target, accepted, release = prepared(make, sink, load, count=30, size=400)
    file = daemon.data / "events" / "events.jsonl"
    told = file.read_bytes()
    if harm == "removed":
        file.unlink()
    elif harm == "torn":
        os.truncate(file, len(told) - 40)
    else:
        file.write_bytes(told + b"\0\xff garbage\n\n{\"half\": ")
    release()
    daemon.start()

    def delivered():
        lines = [line for line in file.read_bytes().splitlines() if b'"event":"delivered"' in line]
        return [r for r in accepted if sum(f'"{r}"'.encode() in line for line in lines) == 1]

    wait_until(lambda: len(delivered()) == len(accepted), 30, "one end for each")
    if harm == "torn":
        assert "cut an unfinished line off the event log" in daemon.log()
        assert file.read_bytes().startswith(told), "the cut line was not told again"
    assert set(accepted) <= arrived(target) and daemon.verify()[1]


@pytest.mark.parametrize("harm", ["removed", "emptied", "cut off", "garbage", "a file"])
def test_ledger_index(make, sink, load, harm):
    """sled's folder is damaged: it is made anew from the ledger's log, and nobody loses a tenant or a key."""
    daemon = make({**relay(sink()), **CONFIG}).start()
    clients = load(daemon, size=400, keyed=True)
    clients.wait(20)
    accepted = clients.stop()
    daemon.cli("tenant", "add", "shop", "--from-domain", "shop.test", "--config", daemon.file)
    folder = daemon.data / "ledger" / "index"

    def indexed():
        """Whether sled's file has the tenant, and the daemon says that it has all."""
        return daemon.metric("posthaste_ledger_behind") == 0 and b"shop.test" in (folder / "db").read_bytes()

    wait_until(indexed, 10, "the index has it")
    daemon.wait_terminal(accepted)
    daemon.kill()
    if harm in ("removed", "a file"):
        shutil.rmtree(folder)
    if harm == "a file":
        folder.write_text("mine")
    elif harm == "emptied":
        (folder / "db").write_bytes(b"")
    elif harm == "cut off":
        os.truncate(folder / "db", 100)
    elif harm == "garbage":
        for file in folder.iterdir():
            if file.is_file():
                file.write_bytes(os.urandom(max(file.stat().st_size, 4096)))
    daemon.start()
    assert daemon.metric("posthaste_ledger_rebuilt_total") == 1
    assert "moved aside and made anew" in daemon.log()
    wait_until(indexed, 10, "the index has it again")
    assert "shop" in daemon.cli("tenant", "list", "--config", daemon.file).stdout
    clients.again(accepted)
    daemon.send("after@them.test")
    daemon.wait_terminal(["after@them.test"])
    delivered = [event["recipient"] for event in daemon.events(names=["delivered"])]
    assert sorted(delivered) == sorted([*accepted, "after@them.test"]), "a key was forgotten"
    assert daemon.verify()[1]


def test_damaged_facts(make, sink, load):
    """Records of the ledger's facts are damaged, and the index is gone, so that all must come from what is left: the operator is
    told, what stood elsewhere is known, and mail goes on."""
    target = sink()
    daemon = make({**relay(target), **CONFIG}).start()
    tenants = [f"shop{number}" for number in range(8)]
    for tenant in tenants:
        daemon.cli("tenant", "add", tenant, "--from-domain", f"{tenant}.test", "--config", daemon.file)
    clients = load(daemon, size=400)
    clients.wait(20)
    accepted = clients.stop()
    daemon.wait_terminal(accepted)
    daemon.kill()
    for file in (daemon.data / "ledger" / "facts").glob("seg-*.log"):
        file.write_bytes(file.read_bytes().replace(b"shop5", b"\xff" * 5))
    shutil.rmtree(daemon.data / "ledger" / "index")
    daemon.start()
    lines = [line for line in daemon.log().splitlines() if "the log is damaged" in line]
    assert any("ledger/facts" in line for line in lines), lines
    assert daemon.metric('posthaste_ledger_damaged{log="facts"}') >= 1
    known = daemon.cli("tenant", "list", "--config", daemon.file).stdout.split()
    assert [tenant for tenant in tenants if tenant not in known] == ["shop5"]
    rest(daemon, target, accepted, lost=0)


def test_foreign_files(make, sink, load):
    """Files that are none of ours in the spool's folder are left alone."""
    daemon, target, accepted, release = prepared(make, sink, load, count=20, size=400)
    folder = daemon.data / "spool"
    (folder / "notes.txt").write_text("mine")
    (folder / "seg-0000000002.log.bak").write_text("a copy")
    release()
    daemon.start()
    whole(daemon, target, accepted)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "seg-0000000002.log.bak").exists()


def test_no_room_for_the_data_folder(make, sink, tmp_path):
    """The data folder is a file: exit code 2, as for every mistake in the configuration, and the path."""
    place = tmp_path / "not-a-folder"
    place.write_text("")
    daemon = make(relay(sink()), data=place).launch()
    assert daemon.process.child.wait(20) == 2
    assert str(place) in daemon.log()

"""What comes back under faults: bombs, disks that fail, kills. The listener's promises are in docs/bounces.md."""

import base64
import os
import pathlib
import smtplib
import threading
import time
import zlib

from conftest import LONG, relay
from peers import free_port, wait_until
from test_disk import arrived, shim

BACK = "bounces.shop.test"
MIB = 1 << 20


def returning(target, port, **more):
    """A daemon's configuration that takes back what comes to `port`."""
    return {**relay(target), "feedback": {"bounce_domain": BACK}, "inbound": {"listen": [f"127.0.0.1:{port}"]}, **more}


def paths(daemon, target, names):
    """Sends to each of these; their return paths, in the same order."""
    for name in names:
        daemon.send(f"{name}@them.test")
    daemon.wait_terminal([f"{name}@them.test" for name in names])
    return [target.to(f"{name}@them.test")[0].sender for name in names]


def dead(name, said="5.1.1", text="550 5.1.1 User unknown"):
    """A report that says so."""
    return ("From: MAILER-DAEMON@them.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; "
            "report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\nUndelivered.\r\n--x\r\n"
            "Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.them.test\r\n\r\n"
            f"Final-Recipient: rfc822; {name}@them.test\r\nAction: failed\r\nStatus: {said}\r\n"
            f"Diagnostic-Code: smtp; {text}\r\n\r\n--x--\r\n").encode()


def hand_in(port, path, content, size=None):
    """The reply to a message from <>, as (code, text)."""
    with smtplib.SMTP("127.0.0.1", port, timeout=120) as session:
        session.ehlo("mx.them.test")
        code, text = session.mail("", [f"SIZE={size}"] if size else [])
        if code == 250:
            code, text = session.rcpt(path)
        return (code, text) if code != 250 else session.data(content)


def zeros(wrapper_bits):
    """1 GiB of zeros, deflated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wrapper_bits)
    return b"".join(packer.compress(bytes(4 * MIB)) for _ in range(256)) + packer.flush()


def zipped(name, stream):
    """A zip of one file whose deflated stream this is."""
    header = b"PK\3\4" + (20).to_bytes(2, "little") + bytes(2) + (8).to_bytes(2, "little") + bytes(8)
    return header + len(stream).to_bytes(4, "little") + (1 << 30).to_bytes(4, "little") + \
        len(name).to_bytes(2, "little") + bytes(2) + name + stream


def attached(kind, name, octets):
    return (f"From: reports@them.test\r\nMIME-Version: 1.0\r\nContent-Type: {kind}; name={name}\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\n").encode() + base64.encodebytes(octets).replace(b"\n", b"\r\n")


def nested(depth, line):
    """So many entities in one another."""
    return b"MIME-Version: 1.0\r\n" + b"".join(line.replace("#", str(n)).encode() for n in range(depth)) + b"x\r\n"


def bombs(path):
    """Name, recipient, content, reply, event."""
    many = nested(100, "Content-Type: multipart/mixed; boundary=\"b#\"\r\n\r\n--b#\r\n")
    deep = nested(17_000, "Content-Type: message/rfc822\r\n\r\n")
    deeper = nested(17_000, "Content-Type: multipart/mixed; boundary=\"b#\"\r\n\r\n--b#\r\n")
    entry = "\r\nFinal-Recipient: rfc822;u{}@x.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    report = dead("bomb").replace(b"\r\n--x--", "".join(map(entry.format, range(100_000))).encode() + b"\r\n--x--")
    parts = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000
    gzipped, packed = zeros(31), zeros(-15)
    for name, to, content, event in [
        ("gzip", f"dmarc@{BACK}", attached("application/gzip", "r.xml.gz", gzipped), "report"),
        ("zip", f"dmarc@{BACK}", attached("application/zip", "r.zip", zipped(b"r.xml", packed)), "report"),
        ("gzip JSON", f"tlsrpt@{BACK}", attached("application/tlsrpt+gzip", "r.json.gz", gzipped), "report"),
        ("multiparts, 100 deep", path, many, "returned"),
        ("messages, 17,000 deep", path, deep, "returned"),
        ("multiparts, 17,000 deep", path, deeper, "returned"),
        ("100,000 recipients", path, report, "returned"),
        ("100,000 parts", path, parts, "returned"),
    ]:
        assert len(content) < 10 * MIB, f"{name} has {len(content)} octets"
        yield name, to, content, event


def peak(daemon):
    """The most memory it ever had resident, in octets."""
    status = pathlib.Path(f"/proc/{daemon.process.child.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_bombs_stay_within_memory(make, sink):
    """All at once and several of each: each gets the right reply, an ordinary report beside them has its effect, and what
    they took is what the configuration and the number of cores say."""
    target, port = sink(), free_port()
    daemon = make(returning(target, port)).start()
    bomb, *ordinary = paths(daemon, target, ["bomb", *(f"gone{n}" for n in range(10))])
    before, said = peak(daemon), {}
    copies = 4 if LONG else 2

    def throw(name, to, content):
        said.setdefault(name, []).append(hand_in(port, to, content))

    some = list(bombs(bomb))
    threads = [threading.Thread(target=throw, args=one[:3]) for one in some for _ in range(copies)]
    for thread in threads:
        thread.start()
    for number, path in enumerate(ordinary):
        wait_until(lambda: hand_in(port, path, dead(f"gone{number}"))[0] == 250, 120, "an ordinary report to be taken")
    for thread in threads:
        thread.join()
    # 452: those before it fill what memory there is for this; its sender tries again.
    assert {name: {code for code, _ in replies} <= {250, 452} for name, replies in said.items()} == \
        {name: True for name, *_ in some}, said
    for name, to, content, event in some:
        known = len(daemon.events(names=[event]))
        wait_until(lambda: hand_in(port, to, content)[0] == 250, 120, f"{name} to be taken")
        wait_until(lambda: len(daemon.events(names=[event])) > known, 20, f"an event of {name}")
    for number in range(len(ordinary)):
        daemon.wait_event(f"gone{number}@them.test", "suppression")
    assert {event["what"] for event in daemon.events(names=["report"])} == {"unreadable"}
    # Messages being received and read, and on each core one that is read: what it unpacks to, in a vector that has doubled,
    # and its decoded text.
    bound = 64 * MIB + os.cpu_count() * (2 * 64 + 3 * 10) * MIB
    grown = peak(daemon) - before
    print(f"{before / MIB:.0f} MiB before, {grown / MIB:.0f} MiB more, {bound / MIB:.0f} allowed")
    assert grown < bound


def test_an_attachment_of_a_gigabyte(make, sink):
    """Announced it is refused at once; sent without a word it is refused too, and never kept."""
    target, port = sink(), free_port()
    daemon = make(returning(target, port)).start()
    path, ordinary = paths(daemon, target, ["bomb", "gone"])
    code, text = hand_in(port, path, b"", size=1 << 30)
    assert (code, text[:5]) == (552, b"5.3.4"), text
    before = peak(daemon)
    with smtplib.SMTP("127.0.0.1", port, timeout=300) as session:
        session.ehlo("mx.them.test")
        session.mail("")
        session.rcpt(path)
        assert session.docmd("DATA")[0] == 354
        lines = (b"x" * 998 + b"\r\n") * 1000
        try:
            for _ in range((1 << 30 if LONG else 1 << 27) // len(lines)):
                session.sock.sendall(lines)
            session.send(b".\r\n")
            code, text = session.getreply()
            assert (code, text[:5]) == (552, b"5.3.4"), text
        except (OSError, smtplib.SMTPServerDisconnected):
            pass  # it may hang up on who goes on for so long
    assert hand_in(port, ordinary, dead("gone"))[0] == 250
    daemon.wait_event("gone@them.test", "suppression")
    assert peak(daemon) - before < 32 * MIB, f"{(peak(daemon) - before) / MIB:.0f} MiB more"


def test_a_sync_that_fails_before_the_250(make, sink, tmp_path):
    """The reporter hears 4xx, and its report has its effect when it comes again, once."""
    target, port = sink(), free_port()
    orders, environment = shim(tmp_path)
    daemon = make(returning(target, port, suppression={"hard_bounces": 1}), environment=environment).start()
    path, full = paths(daemon, target, ["gone", "full"])
    orders.write_text("error sync")
    for _ in range(3):
        code, text = hand_in(port, path, dead("gone"))
        assert 400 <= code < 500, (code, text)
    orders.write_text("")
    wait_until(daemon.ready, 30, "/readyz says yes again")
    wait_until(lambda: hand_in(port, path, dead("gone"))[0] == 250, 30, "the report to be taken")
    assert hand_in(port, full, dead("full", "5.2.2", "552 5.2.2 mailbox full"))[0] == 250
    daemon.wait_event("gone@them.test", "suppression")
    daemon.wait_event("full@them.test", "returned")
    # What was told before the disk failed may be told again; only one entry was made.
    assert len(daemon.events("gone@them.test", ["suppression"])) == 1
    assert daemon.events("gone@them.test", ["returned"])


def test_reports_beside_load_and_a_kill_have_their_effect_once(make, sink, load):
    """Reports in beside outbound load, the daemon killed among them; who got no 250 sends his again. Every one has its effect, and those that
    come again after the restart change nothing."""
    target, port = sink(), free_port()
    daemon = make(returning(target, port)).start()
    names = [f"gone{n}" for n in range(200 if LONG else 60)]
    known = dict(zip(names, paths(daemon, target, names)))
    waiting, done = list(names), []
    clients = load(daemon, pause=0.02)

    def report():
        while waiting:
            name = waiting.pop()
            try:
                assert hand_in(port, known[name], dead(name))[0] == 250
                done.append(name)
            except (OSError, smtplib.SMTPException):
                waiting.append(name)
                time.sleep(0.05)

    workers = [threading.Thread(target=report) for _ in range(4)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(done) >= len(names) // 3, 60, "some reports")
    daemon.kill()
    daemon.start()
    for worker in workers:
        worker.join()
    accepted = clients.stop()
    wait_until(lambda: set(accepted) <= arrived(target), 60, "all that was accepted to arrive")
    exported = daemon.cli("suppression", "export", "--config", daemon.file).stdout
    assert {f"{name}@them.test" for name in names} <= {line.split(",")[0] for line in exported.splitlines()}
    for name in names:
        # The entry is on disk with its line: a kill takes neither.
        daemon.wait_event(f"{name}@them.test", "suppression")
        assert hand_in(port, known[name], dead(name))[0] == 250
    wait_until(lambda: len(daemon.events(names=["returned"])) >= 2 * len(names), 30, "all to be told again")
    for name in names:
        told = [event["what"] for event in daemon.events(f"{name}@them.test", ["returned"])]
        # Those whose 250 the kill ate may have been told twice.
        assert told[-1] == "repeated" and 1 <= told.count("failed") <= 2, (name, told)
        assert len(daemon.events(f"{name}@them.test", ["suppression"])) == 1, name
    assert sum(event["what"] == "failed" for event in daemon.events(names=["returned"])) <= len(names) + len(workers)

"""What an administrator does: reload, stop, look, measure."""

import json
import signal
import smtplib
import threading
import time

import peers
import pytest
from conftest import relay
from prometheus_client.parser import text_string_to_metric_families


def busy(address, sender):
    return "451 4.2.0 not now"


def test_reload_with_a_good_file(start, sink):
    first, second = sink(), sink()
    daemon = start(relay(first))
    daemon.send("a@them.test")
    first.wait(1)
    daemon.write({**daemon.config, **relay(second)})
    daemon.signal(signal.SIGHUP)

    def moved():
        daemon.send("b@them.test")
        return second.mails

    peers.wait_until(moved, what="mail at the second relay")
    assert daemon.ready()


def test_reload_with_a_bad_file_keeps_the_old_one_and_says_why(start, sink):
    target = sink()
    daemon = start(relay(target))
    good = daemon.file.read_text()
    for bad, why in [("retry = 5\n", "retry"), ('hostname = "two words"\n', "hostname"),
                     ("no_such_key = 1\n", "no_such_key"), ("[[[", "posthaste.toml")]:
        daemon.file.write_text(bad)
        before = len(daemon.log())
        daemon.signal(signal.SIGHUP)
        said = peers.wait_until(lambda: daemon.log()[before:], what="a word in the log")
        peers.wait_until(lambda: why in daemon.log()[before:], what=f"{why} in {said}")
        daemon.send("a@them.test")
        assert metric(daemon, "posthaste_config_last_reload_ok") == 0
    target.wait(4)
    daemon.file.write_text(good)
    daemon.signal(signal.SIGHUP)
    peers.wait_until(lambda: metric(daemon, "posthaste_config_last_reload_ok") == 1, what="a good reload")


def test_check_names_line_and_remedy(start, sink):
    daemon = start(relay(sink()))
    assert daemon.cli("check", "--config", daemon.file).returncode == 0
    bad = daemon.directory / "bad.toml"
    bad.write_text('hostname = "mta.shop.test"\n\n[retry]\ndelay_min = "6h"\ndelay_max = "4h"\n')
    done = daemon.cli("check", "--config", bad, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "bad.toml:4: retry.delay_min" in said and ";" in said, said


def test_sigterm_drains_and_nothing_is_lost(start, sink):
    """Mail in flight reaches its end or stays for the next start; doors close first."""
    target = sink()
    daemon = start(relay(target))
    accepted, stop = [], threading.Event()

    def load(worker):
        number = 0
        try:
            with daemon.client() as session:
                while not stop.is_set():
                    recipient = f"user{worker}-{number}@them.test"
                    session.sendmail("orders@shop.test", [recipient], b"From: orders@shop.test\r\nSubject: x\r\n\r\nx\r\n")
                    accepted.append(recipient)
                    number += 1
        except (smtplib.SMTPException, OSError):
            pass

    workers = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    peers.wait_until(lambda: len(accepted) > 200, what="some load")
    assert daemon.stop() == 0, daemon.log()
    stop.set()
    for worker in workers:
        worker.join()
    daemon.start()
    ends = daemon.wait_terminal(accepted)
    assert {end["event"] for end in ends.values()} == {"delivered"}
    arrived = [recipient for mail in target.mails for recipient in mail.recipients]
    assert set(arrived) >= set(accepted)
    assert len(arrived) == len(set(arrived)), "a drained stop sends nothing twice"


def test_a_waiting_queue_survives_a_restart(start, sink):
    target = sink(verdict=busy)
    daemon = start({**relay(target), "retry": {"delay_min": "2s", "delay_max": "2s"}})
    recipients = [f"user{n}@them.test" for n in range(50)]
    for recipient in recipients:
        daemon.send(recipient)
    peers.wait_until(lambda: len(daemon.events(names=["deferred"])) >= 50, what="50 deferred")
    assert daemon.stop() == 0
    target.verdict = lambda address, sender: None
    daemon.start()
    daemon.wait_terminal(recipients)
    assert sorted(r for mail in target.mails for r in mail.recipients) == sorted(recipients)


def metric(daemon, name, **labels):
    """The sum of a metric's samples that carry these labels."""
    families = text_string_to_metric_families(daemon.get("/metrics")[1])
    samples = [s for family in families for s in family.samples
               if s.name == name and labels.items() <= s.labels.items()]
    assert samples or labels, name
    return sum(sample.value for sample in samples)


def test_metrics_parse_and_add_up(start, sink):
    target = sink(verdict=lambda address, sender: {"n": "550 5.1.1 no", "l": "451 4.2.0 later"}.get(address[0]))
    daemon = start(relay(target))
    daemon.send(["yes1@them.test", "yes2@them.test", "no@them.test", "later@them.test"])
    daemon.send("nobody@them.test", sender="")
    daemon.wait_event("later@them.test", "deferred")
    peers.wait_until(lambda: len(daemon.events(names=["delivered", "bounced"])) == 5, what="four ends and a report")
    families = {f.name: f for f in text_string_to_metric_families(daemon.get("/metrics")[1])}
    for name in ("messages_accepted", "recipients", "attempts", "queue_recipients", "queue_oldest_seconds",
                 "delivery_latency_seconds", "stage_seconds", "connections", "spool_sync_seconds", "spool_bytes"):
        assert f"posthaste_{name}" in families, name
    assert metric(daemon, "posthaste_messages_accepted_total") == 2
    # 5 handed over and one report: 3 delivered, 2 bounced, 1 waiting.
    assert metric(daemon, "posthaste_recipients_total", outcome="delivered") == 3
    assert metric(daemon, "posthaste_recipients_total", outcome="bounced") == 2
    waiting = metric(daemon, "posthaste_queue_recipients", **{"class": "transactional"})
    assert waiting == 1
    terminal = metric(daemon, "posthaste_recipients_total")
    assert metric(daemon, "posthaste_recipients_accepted_total") == terminal + waiting
    for family in families.values():
        for sample in family.samples:
            assert not any("@" in value or "them.test" in value for value in sample.labels.values()), sample


def test_health(start, sink):
    daemon = start(relay(sink()))
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/readyz")[0] == 200
    assert daemon.get("/nothing-here")[0] == 404


def test_ready_means_that_the_door_is_open(start, sink, tmp_path):
    cert, key = peers.certificate(tmp_path, "mta.shop.test")
    daemon = start({**relay(sink()), "submission": {"smtp": {"tls_cert_file": str(cert), "tls_key_file": str(key)}}})
    for _ in range(10):
        assert daemon.stop() == 0
        daemon.process = peers.Process(daemon.process.child.args, daemon.process.log)
        peers.wait_until(daemon.ready, what="ready")
        assert peers.listens("127.0.0.1", daemon.smtp)


def test_queue_commands(start, sink):
    target = sink(verdict=busy)
    daemon = start({**relay(target), "retry": {"delay_min": "5m", "delay_max": "4h"}})
    daemon.send(["a@them.test", "b@them.test"])
    message_id = daemon.wait_event("a@them.test", "deferred")["message_id"]
    daemon.wait_event("b@them.test", "deferred")

    listed = daemon.cli("queue", "list", "--config", daemon.file)
    assert message_id in listed.stdout
    as_json = json.loads(daemon.cli("queue", "list", "--json", "--config", daemon.file).stdout)
    assert message_id in json.dumps(as_json)
    shown = daemon.cli("queue", "show", message_id, "--config", daemon.file)
    assert "a@them.test" in shown.stdout and "b@them.test" in shown.stdout and "4.2.0" in shown.stdout

    target.verdict = lambda address, sender: None
    daemon.cli("queue", "retry", message_id, "--config", daemon.file)
    daemon.wait_terminal(["a@them.test", "b@them.test"])
    peers.wait_until(lambda: message_id not in daemon.cli("queue", "list", "--config", daemon.file).stdout, what="an empty queue")
    assert daemon.cli("queue", "show", "0000000000000", "--config", daemon.file, check=False).returncode == 1
    assert daemon.cli("queue", "show", "no id", "--config", daemon.file, check=False).returncode == 2


def test_two_daemons_do_not_share_a_directory(start, sink, tmp_path):
    daemon = start(relay(sink()))
    second = peers.Process([daemon.process.child.args[0], "serve", "--config", daemon.file], tmp_path / "second.log")
    peers.wait_until(lambda: not second.running(), what="the second daemon's end")
    assert second.child.returncode != 0 and second.output()
    assert daemon.ready()


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_is_quick_even_when_a_receiver_hangs(start, sink, signals):
    target = sink(verdict=lambda address, sender: time.sleep(0) or None)

    async def hang(*_):
        import asyncio
        await asyncio.sleep(3600)

    target.dialogue = hang
    daemon = start(relay(target))
    daemon.send("a@them.test")
    peers.wait_until(lambda: target.connections, what="a connection")
    began = time.monotonic()
    for _ in range(signals):
        daemon.signal(signal.SIGTERM)
        time.sleep(0.2)
    daemon.process.child.wait(60)
    assert time.monotonic() - began < (45 if signals == 1 else 5)

"""The unit under a real systemd: what it starts, watches, reloads and ends, and what its sandbox allows."""

import json
import os
import pathlib
import signal
import subprocess

import peers
import pytest
from conftest import relay
from machine import UNIT, Machine
from posthaste import Posthaste


@pytest.fixture
def install(tmp_path, stack):
    """`install(config)`: a machine with the daemon installed but not started, and the daemon as its clients see it."""

    def install(config=None):
        machine = Machine(tmp_path)
        stack.callback(machine.stop)
        stack.callback(lambda: print(f"--- journal\n{machine.journal()}\n--- systemd\n{machine.process.output()}"))
        daemon = Posthaste(tmp_path, config)
        # Where the unit lets it write, which is its default.
        del daemon.config["data_dir"]
        daemon.data = pathlib.Path(f"/proc/{machine.first()}/root/var/lib/posthaste")
        daemon.write()
        return machine, daemon

    return install


def waiting(machine):
    """Recipients in the queue, as the program on the machine tells."""
    told = json.loads(machine.run("posthaste", "queue", "list", "--json", "--config", "/work/posthaste.toml").stdout)
    return [message["recipient"] for message in told["messages"]]


def process_of(machine):
    """The daemon's process id, as seen from outside, and what the kernel says of it."""
    inside = machine.show("MainPID")
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            lines = {name: value.strip() for name, value in
                     (line.split(":", 1) for line in status.read_text().splitlines())}
        except (FileNotFoundError, ProcessLookupError):
            continue
        if lines["Name"] == "posthaste" and lines["NSpid"].split()[1:] == [inside]:
            return int(lines["Pid"]), lines
    raise LookupError(inside)


def test_starts_reloads_and_stops_with_mail_kept(install, sink):
    target = sink(verdict=lambda address, sender: "451 4.2.0 not now" if sender.startswith("later") else None)
    machine, daemon = install(relay(target))
    machine.systemctl("start")
    assert daemon.ready(), "systemctl start comes back when mail is taken"
    daemon.send("a@them.test")
    target.wait(1)

    machine.systemctl("reload")
    peers.wait_until(lambda: "configuration reloaded" in machine.journal(), what="the reload")
    daemon.file.write_text("retry = 5\n")
    machine.systemctl("reload")
    peers.wait_until(lambda: "retry" in machine.journal(), what="a word on the bad file")
    assert machine.show("ActiveState") == "active"

    daemon.write()
    daemon.send("b@them.test", sender="later@shop.test")
    machine.systemctl("stop")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    machine.systemctl("start")
    assert waiting(machine) == ["b@them.test"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGABRT])
def test_comes_back_by_itself(install, end):
    """Killed, hanging (the watchdog sees it) or broken: it is started again, with its mail."""
    machine, daemon = install({"route": [{"match": "*", "relay": [f"127.0.0.1:{peers.free_port()}"]}]})
    machine.drop_in("[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    machine.systemctl("start")
    daemon.send("a@them.test")
    before, _ = process_of(machine)
    os.kill(before, end)
    peers.wait_until(lambda: int(machine.show("NRestarts")) == 1 and daemon.up(), what="a new daemon")
    assert process_of(machine)[0] != before
    assert waiting(machine) == ["a@them.test"]


def test_a_configuration_that_cannot_be_used_is_not_tried_again(install):
    machine, daemon = install()
    daemon.file.write_text('hostname = "mta.shop.test"\nretry = 5\n')
    assert machine.systemctl("start", check=False).returncode != 0
    assert machine.show("ActiveState") == "failed"
    assert (machine.show("ExecMainStatus"), machine.show("NRestarts")) == ("2", "0")
    said = machine.journal()
    assert "posthaste.toml:2:" in said and "retry" in said, said


def test_a_key_handed_over_as_a_credential_signs(install, sink, tmp_path):
    target = sink()
    key = tmp_path / "dkim.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    key.chmod(0o600)
    of = {"domain": "shop.test", "selector": "s1", "key_file": "/run/credentials/posthaste.service/dkim"}
    machine, daemon = install({**relay(target), "dkim": [of]})
    machine.drop_in("[Service]\nLoadCredential=dkim:/work/dkim.pem\n")
    machine.systemctl("start")
    daemon.send("a@them.test")
    target.wait(1)
    assert b"DKIM-Signature: v=1; a=ed25519-sha256" in target.mails[0].content.replace(b"\r\n\t", b" ")


def test_the_sandbox_is_in_force_and_lets_it_work(install, sink):
    target = sink()
    machine, daemon = install(relay(target))
    machine.systemctl("start")
    daemon.send("a@them.test")
    target.wait(1)
    _, status = process_of(machine)
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)
    assert status["Uid"].split()[0] != "0"
    exposure = json.loads(machine.run("systemd-analyze", "security", "--json=short", "--no-pager", UNIT).stdout)
    # What stays open is what a mail server needs: the network, and a user who is not chosen anew at each start.
    assert sum(float(row["exposure"] or 0) for row in exposure) < 2.5, exposure

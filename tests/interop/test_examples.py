"""The guides in `examples/`, as they stand there. Each is run twice, and everybody gets one mail."""

import os
import shutil
import subprocess
import sys

import peers
import pytest
from conftest import relay, tenant

REPOSITORY = peers.HERE.parent.parent
EXAMPLES = REPOSITORY / "examples"
TO = ["ada@them.test", "grace@them.test", "barbara@them.test"]


@pytest.fixture
def door(start, sink):
    """A daemon that trusts nobody's address over gRPC and HTTP; the sink; the environment examples look at."""
    target = sink()
    untrusting = {"trusted_networks": []}
    daemon = start({**relay(target), "submission": {"grpc": untrusting, "http": untrusting, "smtp": untrusting}})
    return daemon, target, {
        "POSTHASTE_GRPC": f"127.0.0.1:{daemon.grpc}", "POSTHASTE_HTTP": f"http://127.0.0.1:{daemon.http}",
        "POSTHASTE_SMTP": f"127.0.0.1:{daemon.smtp}", "POSTHASTE_USER": "shop",
        "POSTHASTE_TOKEN": tenant(daemon, "shop", "--from-domain", "shop.test"),
    }


def run(*words, cwd=EXAMPLES, **variables):
    environment = {**peers.environment(), "PATH": f"{peers.ROOT}/usr/bin:{os.environ['PATH']}", **variables}
    return subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=60)


def check(door, send, to, campaign):
    """`send()` works, again and again, and mails once; with a wrong token it fails."""
    daemon, target, variables = door
    outputs = []
    for _ in range(2):
        done = send(variables)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    ends = daemon.wait_terminal(to)
    assert {(ends[each]["event"], ends[each]["tenant"], ends[each]["campaign"]) for each in to} == {
        ("delivered", "shop", campaign)}
    assert len(target.mails) == len(to)
    assert send({**variables, "POSTHASTE_TOKEN": "wrong"}).returncode != 0
    return outputs


def test_rust(door):
    # With the binary beside it, as cargo made it.
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "grpc"], cwd=REPOSITORY, env=environment, check=True)
    example = os.path.join(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"), "debug/examples/grpc")

    def send(variables):
        return run(example, "spring-sale", *TO,
                   **{**variables, "POSTHASTE_GRPC": f"http://{variables['POSTHASTE_GRPC']}"})

    first, again = check(door, send, TO, "spring-sale")
    assert again.splitlines() == [f"{line} (accepted before)" for line in first.splitlines()]


def test_rust_survives_a_restart(door):
    daemon, target, variables = door
    example = os.path.join(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"), "debug/examples/grpc")
    daemon.stop()
    child = subprocess.Popen([example, "spring-sale", *TO], stderr=subprocess.PIPE, text=True,
                             env={**os.environ, **variables, "POSTHASTE_GRPC": f"http://{variables['POSTHASTE_GRPC']}"})
    assert "currently unavailable" in child.stderr.readline()
    daemon.start()
    assert child.wait(60) == 0, child.stderr.read()
    child.stderr.close()
    daemon.wait_terminal(TO)
    assert len(target.mails) == len(TO)


def test_python(door, tmp_path):
    folder = tmp_path / "examples" / "python"
    shutil.copytree(EXAMPLES / "python", folder)
    (tmp_path / "proto").symlink_to(REPOSITORY / "proto")
    # The commands of its README, but for the installation.
    lines = [line[4:] for line in (folder / "README.md").read_text().splitlines() if line.startswith("    ")]
    commands = "\n".join(lines).replace("\\\n", " ").splitlines()
    make, send_it = (each for each in commands if each.startswith("python "))
    python = os.path.dirname(sys.executable)

    def shell(command, variables):
        path = {"PATH": f"{python}:{os.environ['PATH']}"}
        return run("sh", "-c", command.replace("example.com", "them.test"), cwd=folder, **variables, **path)

    assert (made := shell(make, {})).returncode == 0, made.stderr
    first, again = check(door, lambda variables: shell(send_it, variables), TO[:2], "spring-sale")
    assert again.splitlines() == [f"{line} (accepted before)" for line in first.splitlines()]


def test_node(door, tmp_path):
    def send(variables):
        return peers.node(tmp_path / "node", EXAMPLES / "node" / "order.js", 4711, TO[0], **variables)

    first, again = check(door, send, TO[:1], "orders")
    assert first.startswith("250 ") and again.startswith("250 ")


def test_http(door):
    first, again = check(door, lambda variables: run("http/order.sh", 4711, TO[0], **variables), TO[:1], "orders")
    assert '"replayed":false' in first and '"replayed":true' in again and TO[0] in again


def test_http_batch(door):
    daemon, target, variables = door
    check(door, lambda variables: run("http/batch.sh", "spring-sale", *TO, **variables), TO, "spring-sale")


def test_php(start, sink, tmp_path):
    target = sink()
    daemon = start(relay(target))
    link = tmp_path / "sendmail"
    link.symlink_to(os.path.abspath(os.environ["POSTHASTE"]))
    for _ in range(2):
        done = peers.run("php8.2", "-n", "-d", f"sendmail_path={link} -t -i --config {daemon.file}",
                         EXAMPLES / "frameworks" / "mail.php", 4711, TO[0])
        assert done.returncode == 0, done.stdout + done.stderr
    end = daemon.wait_terminal(TO[:1])[TO[0]]
    assert end["campaign"] == "orders" and len(target.mails) == 1


DJANGO = """
import runpy, sys
from django.conf import settings
settings.configure(**{key: value for key, value in runpy.run_path(sys.argv[1]).items() if key.isupper()})
from django.core.mail import EmailMessage
EmailMessage("Your order 4711", "Thank you!", to=[sys.argv[2]], headers={
    "X-Posthaste-Idempotency-Key": "order-4711", "X-Posthaste-Campaign": "orders"}).send()
"""


def test_django(door):
    check(door, lambda variables: run(sys.executable, "-c", DJANGO, EXAMPLES / "frameworks" / "django.py", TO[0], **variables),
          TO[:1], "orders")

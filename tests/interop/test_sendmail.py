"""Programs that call sendmail: PHP, mail(1), and what cron does. The program is ours, called by that name."""

import email
import email.policy
import json
import os
import shlex
import subprocess

import peers
import pytest
from conftest import relay
from posthaste import BINARY


@pytest.fixture
def door(start, sink, tmp_path):
    """A daemon that relays to a sink; the sink; the path of `sendmail`, which knows the daemon's configuration."""
    target = sink()
    daemon = start(relay(target))
    (tmp_path / "bin").mkdir()
    sendmail = tmp_path / "bin" / "sendmail"
    sendmail.symlink_to(os.path.abspath(BINARY))
    # Where the configuration is not in its usual place, callers say so.
    wrapper = tmp_path / "sendmail"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(sendmail))} --config {shlex.quote(str(daemon.file))} "$@"\n')
    wrapper.chmod(0o755)
    return daemon, target, wrapper


def parse(mail):
    return email.message_from_bytes(mail.content, policy=email.policy.default)


PHP = r"""<?php
$to = "a@them.test, Bob <b@them.test>";
$headers = ["From" => "orders@shop.test", "Bcc" => "c@them.test", "Content-Type" => "text/plain; charset=utf-8",
    "X-Posthaste-Campaign" => "spring", "X-Posthaste-Idempotency-Key" => "php-1"];
exit(mail($to, "=?UTF-8?B?" . base64_encode("Grüße") . "?=", "one\n.\n..two Grüße\n", $headers, $argv[1]) ? 0 : 1);
"""


def test_php_mail(door, tmp_path):
    daemon, target, sendmail = door
    (tmp_path / "mail.php").write_text(PHP)

    def php(*arguments):
        return peers.run("php8.2", "-n", "-d", f"sendmail_path={sendmail} -t -i", tmp_path / "mail.php", *arguments)

    for _ in range(2):  # The second one changes nothing.
        done = php("-fbounces@shop.test")
        assert done.returncode == 0, done.stdout + done.stderr
    ends = daemon.wait_terminal(["a@them.test", "b@them.test", "c@them.test"])
    assert {(end["campaign"], end["sender"]) for end in ends.values()} == {("spring", "bounces@shop.test")}
    assert len(target.mails) == 1
    message = parse(target.mails[0])
    assert message["Subject"] == "Grüße" and message["Bcc"] is None and message["X-Posthaste-Campaign"] is None
    # PHP ends the text with a line end of its own.
    assert message.get_content().replace("\r\n", "\n") == "one\n.\n..two Grüße\n\n"
    daemon.stop()
    done = php("-fbounces@shop.test")
    assert done.returncode == 1, "PHP hears that it failed"


def test_mail_command(door, tmp_path):
    daemon, target, sendmail = door
    done = peers.run("s-nail", "-:/", "-S", f"mta={sendmail}", "-S", "from=orders@shop.test", "-r", "orders@shop.test",
                     "-s", "from mail", "-a", "/etc/passwd", "a@them.test", "b@them.test", input="hello\n",
                     cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    daemon.wait_terminal(["a@them.test", "b@them.test"])
    message = parse(target.wait(1)[0])
    assert message["Subject"] == "from mail" and next(message.iter_attachments()).get_filename() == "passwd"


@pytest.mark.parametrize(("words", "text", "to", "sender"), [
    # Debian's cron and cronie.
    (["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "ops@them.test"], "From: root (Cron Daemon)\nTo: ops@them.test\n",
     ["ops@them.test"], "root@mta.shop.test"),
    (["-FCronDaemon", "-odi", "-oem", "-oi", "-t", "-f", "root"], "From: root\nTo: ops@them.test\n",
     ["ops@them.test"], "root@mta.shop.test"),
    # mutt, git send-email, at, Rails' and Symfony's transports.
    (["-oem", "-oi", "-f", "orders@shop.test", "--", "a@them.test"], "From: orders@shop.test\n",
     ["a@them.test"], "orders@shop.test"),
    (["-i", "a@them.test", "b@them.test"], "From: orders@shop.test\nTo: x@them.test\n",
     ["a@them.test", "b@them.test"], "root@mta.shop.test"),
    (["-i", "-f", "orders@shop.test", "-t"], "From: orders@shop.test\nTo: a@them.test\nCc: b@them.test\nBcc: c@them.test\n",
     ["a@them.test", "b@them.test", "c@them.test"], "orders@shop.test"),
    (["-t", "-i", "-N", "never", "-R", "hdrs", "-V", "id1"], "From: orders@shop.test\nTo: a@them.test\n",
     ["a@them.test"], "root@mta.shop.test"),
])
def test_as_programs_call_it(door, words, text, to, sender):
    daemon, target, sendmail = door
    done = subprocess.run([sendmail, *words], input=f"{text}Subject: x\n\nhello\n.\nworld\n", text=True,
                          capture_output=True, timeout=30)
    assert done.returncode == 0 and not done.stdout, done.stderr
    ends = daemon.wait_terminal(to)
    assert {end["sender"] for end in ends.values()} == {sender}
    message = parse(target.wait(1)[0])
    assert message["Date"] and message["Message-ID"] and message["Bcc"] is None
    assert message.get_content().replace("\r\n", "\n") == "hello\n.\nworld\n"


@pytest.mark.parametrize(("words", "text", "code"), [
    (["-i", "--nonsense"], "x\n", 64),
    (["-i"], "From: a@shop.test\n\nx\n", 64),
    (["-i", "-t"], "From: a@shop.test\nSubject: nobody\n\nx\n", 64),
    (["-i", "a@-bad-.test"], "From: a@shop.test\n\nx\n", 65),
    (["-i", "a@them.test"], "From: a@shop.test\nX-Posthaste-Nonsense: x\n\nx\n", 65),
])
def test_exit_codes(door, words, text, code):
    daemon, _, sendmail = door
    done = subprocess.run([sendmail, *words], input=text, text=True, capture_output=True, timeout=30)
    assert done.returncode == code and done.stderr.startswith("sendmail: "), (done.returncode, done.stderr)
    assert not daemon.events()


def test_nobody_there(door):
    daemon, _, sendmail = door
    daemon.stop()
    done = subprocess.run([sendmail, "-i", "a@them.test"], input="Subject: x\n\nx\n", text=True, capture_output=True)
    assert done.returncode == 75, "the caller keeps it and tries again"


def test_speaking_smtp_on_stdin(door):
    daemon, _, sendmail = door
    dialogue = "EHLO x\r\nMAIL FROM:<orders@shop.test>\r\nRCPT TO:<a@them.test>\r\nDATA\r\n"
    done = subprocess.run([sendmail, "-bs"], input=dialogue + "From: orders@shop.test\r\n\r\nx\r\n.\r\nQUIT\r\n",
                          text=True, capture_output=True, timeout=30)
    assert done.returncode == 0 and "354 " in done.stdout and "221 " in done.stdout, done.stdout + done.stderr
    daemon.wait_terminal(["a@them.test"])


def test_mailq(door, tmp_path):
    daemon, _, sendmail = door
    letter = "From: a@shop.test\nX-Posthaste-Not-Before: 1h\n\nx\n"
    subprocess.run([sendmail, "-i", "later@them.test"], input=letter, text=True, check=True, timeout=30)
    done = subprocess.run([sendmail, "-bp"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "later@them.test" in done.stdout, done.stdout + done.stderr
    assert json.loads(daemon.cli("queue", "list", "--json", "--config", daemon.file).stdout)

"""Clients nobody here wrote hand mail over: swaks and Python's smtplib."""

import email
import email.policy
import smtplib
import ssl

import peers
import pytest
from conftest import relay


@pytest.fixture
def door(start, sink, tmp_path):
    """A daemon that relays to a sink and offers STARTTLS."""
    target = sink()
    cert, key = peers.certificate(tmp_path, "mta.shop.test")
    config = relay(target)
    config["submission"] = {"smtp": {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "max_message_size": "1MiB", "recipients_max": 500,
    }}
    daemon = start(config)
    daemon.certificate = cert
    return daemon, target


def swaks(daemon, *arguments):
    return peers.run("swaks", "--server", "127.0.0.1", "--port", daemon.smtp, "--ehlo", "application.shop.test",
                     "--from", "orders@shop.test", *arguments)


@pytest.mark.parametrize("tls", [[], ["--tls"]], ids=["clear", "tls"])
def test_swaks_sends(door, tls):
    daemon, target = door
    done = swaks(daemon, "--to", "a@them.test,b@them.test", "--header", "Subject: from swaks",
                 "--body", "one\n.\n..two\n", *tls)
    assert done.returncode == 0, done.stdout + done.stderr
    daemon.wait_terminal(["a@them.test", "b@them.test"])
    received = target.wait(1)[0]
    assert b"Subject: from swaks" in received.content
    body = received.content.partition(b"\r\n\r\n")[2]
    assert body.startswith(b"one\r\n.\r\n..two\r\n"), "dots arrive as they were sent"
    # One site, one transaction.
    assert sorted(received.recipients) == ["a@them.test", "b@them.test"]


def test_swaks_bdat_and_pipelining(door):
    daemon, target = door
    with daemon.client() as session:
        assert session.has_extn("pipelining") and session.has_extn("chunking")
    done = swaks(daemon, "--to", "a@them.test", "--pipeline", "--body", "piped")
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"piped" in target.wait(1)[0].content


def test_swaks_is_told_what_is_wrong(door):
    daemon, _ = door
    for to, code in [("not-an-address@", "501"), ("a@-bad-.test", "501"), ("a b@them.test", "501")]:
        done = swaks(daemon, "--to", to)
        assert done.returncode == 24, f"{to}: {done.stdout}"
        assert f"<** {code}" in done.stdout or "<** 55" in done.stdout, f"{to}: {done.stdout}"


def test_smtplib_starttls(door):
    daemon, target = door
    context = ssl.create_default_context(cafile=daemon.certificate)
    with smtplib.SMTP("127.0.0.1", daemon.smtp, timeout=20) as session:
        session.ehlo()
        assert session.has_extn("starttls")
        session._host = "mta.shop.test"  # the name the certificate must carry
        session.starttls(context=context)
        session.ehlo()
        assert not session.has_extn("starttls")
        session.sendmail("orders@shop.test", ["a@them.test"], b"From: orders@shop.test\r\nSubject: tls\r\n\r\nx\r\n")
    assert b"ESMTPS" in target.wait(1)[0].content, "Received says that it came over TLS (RFC 3848)"


def test_smtplib_eight_bit_and_utf8(door):
    daemon, target = door
    with daemon.client() as session:
        for extension in ("8bitmime", "smtputf8", "dsn", "size", "enhancedstatuscodes"):
            assert session.has_extn(extension), extension
        text = "From: orders@shop.test\r\nSubject: 8bit\r\n\r\nGrüße\r\n".encode()
        session.sendmail("orders@shop.test", ["a@them.test"], text, mail_options=["BODY=8BITMIME"])
        message = email.message_from_string("From: bjørn@shop.test\nTo: zoë@them.test\nSubject: smørrebrød\n\nhei\n",
                                            policy=email.policy.SMTPUTF8)
        session.send_message(message)
    daemon.wait_terminal(["a@them.test", "zoë@them.test"])
    first, second = sorted(target.wait(2), key=lambda mail: mail.recipients)
    assert "BODY=8BITMIME" in first.mail_parameters and "Grüße".encode() in first.content
    assert "SMTPUTF8" in second.mail_parameters and second.sender == "bjørn@shop.test"


def test_eight_bit_headers_without_smtputf8_are_refused(door):
    daemon, _ = door
    with daemon.client() as session, pytest.raises(smtplib.SMTPDataError) as refused:
        session.sendmail("orders@shop.test", ["a@them.test"], "Subject: smørrebrød\r\n\r\nx\r\n".encode())
    assert refused.value.smtp_code in (550, 554), refused.value


def test_dsn_parameters_travel_on(door):
    daemon, target = door
    daemon.send("a@them.test", mail_options=["RET=HDRS", "ENVID=QQ314159"],
                rcpt_options=["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;first+40them.test"])
    received = target.wait(1)[0]
    assert "RET=HDRS" in received.mail_parameters and "ENVID=QQ314159" in received.mail_parameters
    parameters = received.rcpt_parameters["a@them.test"]
    notify = next(p for p in parameters if p.startswith("NOTIFY="))
    assert set(notify[7:].split(",")) == {"FAILURE", "DELAY"}
    assert "ORCPT=rfc822;first+40them.test" in parameters


def test_many_recipients(door):
    daemon, target = door
    recipients = [f"user{n}@them.test" for n in range(500)]
    daemon.send(recipients)
    daemon.wait_terminal(recipients)
    assert sorted(r for mail in target.mails for r in mail.recipients) == sorted(recipients)
    assert len({mail.content.partition(b"\r\n\r\n")[2] for mail in target.mails}) == 1
    with daemon.client() as session:
        session.mail("orders@shop.test")
        codes = [session.rcpt(f"user{n}@them.test")[0] for n in range(501)]
    assert codes[:500] == [250] * 500 and codes[500] == 452


def test_size_is_honoured_announced_or_not(door):
    daemon, _ = door
    with daemon.client() as session:
        assert int(session.esmtp_features["size"]) == 1 << 20
        code, text = session.mail("orders@shop.test", ["SIZE=1048577"])
        assert code == 552 and text.startswith(b"5.3.4"), text
    line = b"x" * 70 + b"\r\n"
    with daemon.client() as session:
        session.mail("orders@shop.test")
        session.rcpt("a@them.test")
        code, text = session.data(b"From: orders@shop.test\r\n\r\n" + line * 15_000)
        assert code == 552 and text.startswith(b"5.3.4"), text
        # The session goes on.
        assert session.noop()[0] == 250
    assert not daemon.events()


def test_headers_are_completed_and_bcc_removed(door):
    daemon, target = door
    daemon.send("a@them.test", b"From: orders@shop.test\r\nBcc: secret@them.test\r\nSubject: x\r\n\r\nbody\r\n")
    message = email.message_from_bytes(target.wait(1)[0].content)
    assert message["Message-ID"] and message["Date"] and message["Bcc"] is None
    assert "mta.shop.test" in message.get_all("Received")[0]


def test_our_headers_are_read_and_removed(door):
    daemon, target = door
    daemon.send("a@them.test", b"X-Posthaste-Tenant: acme\r\nX-Posthaste-Campaign: spring\r\nX-Posthaste-Class: bulk\r\n"
                               b"X-Posthaste-Tags: one, two\r\nSubject: x\r\n\r\nbody\r\n")
    event = daemon.wait_event("a@them.test")
    assert (event["tenant"], event["campaign"], event["class"]) == ("acme", "spring", "bulk")
    assert event["tags"] == ["one", "two"]
    assert b"X-Posthaste" not in target.wait(1)[0].content


def test_smuggling_is_refused(door):
    daemon, target = door
    for ending in (b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n"):
        with daemon.client() as session:
            session.mail("orders@shop.test")
            session.rcpt("a@them.test")
            session.docmd("DATA")
            smuggled = b"MAIL FROM:<evil@shop.test>\r\nRCPT TO:<victim@them.test>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n"
            session.send(b"From: orders@shop.test\r\nSubject: x\r\n\r\nbody" + ending + smuggled + b".\r\n")
            code, _ = session.getreply()
            assert code // 100 == 5, f"{ending}: {code}"
    assert not target.mails and not daemon.events()


def test_smtp_source_to_smtp_sink(start, stack, tmp_path):
    """Postfix' own load generator hands over, Postfix' own sink receives."""
    port = peers.free_port()
    receiver = peers.Process([peers.program("smtp-sink"), "-u", "root", f"127.0.0.1:{port}", "100"],
                             tmp_path / "smtp-sink.log", env=peers.environment())
    stack.callback(receiver.stop)
    peers.wait_until(lambda: peers.listens("127.0.0.1", port), what="smtp-sink")
    daemon = start({"route": [{"match": "*", "relay": [f"127.0.0.1:{port}"]}]})
    done = peers.run("smtp-source", "-s", 10, "-m", 1000, "-l", 10240, "-N", "-f", "orders@shop.test",
                     "-t", "customer@them.test", f"inet:127.0.0.1:{daemon.smtp}")
    assert done.returncode == 0, done.stdout + done.stderr
    peers.wait_until(lambda: len(daemon.events(names=["delivered"])) == 1000, 60, "1000 deliveries")
    assert len({event["message_id"] for event in daemon.events()}) == 1000

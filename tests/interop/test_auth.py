"""SMTP AUTH and the extensions of submission, as the clients speak them that applications use."""

import json
import smtplib
import ssl
import subprocess
import time

import peers
import pytest
from conftest import relay, tenant

NAME = "mta.shop.test"


@pytest.fixture
def door(start, sink, tmp_path):
    """A daemon that wants TLS and AUTH, with one tenant; the sink behind it."""
    target = sink()
    cert, key = peers.certificate(tmp_path, NAME, "localhost")
    tls = peers.free_port()
    daemon = start({**relay(target), "submission": {"smtp": {
        "tls_cert_file": str(cert), "tls_key_file": str(key), "listen_tls": [f"127.0.0.1:{tls}"],
        "trusted_networks": [], "auth_without_tls": [],
    }}})
    daemon.certificate, daemon.smtps = cert, tls
    daemon.token = tenant(daemon, "acme", "--from-domain", "shop.test")
    return daemon, target


def swaks(daemon, *arguments, to="a@them.test"):
    return peers.run("swaks", "--server", "127.0.0.1", "--port", daemon.smtp, "--ehlo", "application.shop.test",
                     "--from", "orders@shop.test", "--to", to, *arguments)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_authenticates(door, mechanism):
    daemon, target = door
    done = swaks(daemon, "--tls", "--auth", mechanism, "--auth-user", "acme", "--auth-password", daemon.token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert daemon.wait_event("a@them.test")["tenant"] == "acme"
    assert b"ESMTPSA" in target.wait(1)[0].content, "Received says that the client showed who it is (RFC 3848)"


def test_swaks_over_tls_from_the_first_octet(door):
    daemon, _ = door
    done = swaks(daemon, "--port", daemon.smtps, "--tls-on-connect", "--auth", "PLAIN", "--auth-user", "acme",
                 "--auth-password", daemon.token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert daemon.wait_event("a@them.test")["tenant"] == "acme"


def test_wrong_passwords_are_refused(door):
    daemon, _ = door
    for user, password in [("acme", "wrong"), ("nobody", daemon.token)]:
        done = swaks(daemon, "--tls", "--auth", "PLAIN", "--auth-user", user, "--auth-password", password)
        assert done.returncode == 28 and "<~* 535 5.7.8" in done.stdout, done.stdout
    # Without AUTH, and without the TLS it wants, nothing.
    assert "<~* 530 5.7.0" in (said := swaks(daemon, "--tls").stdout), said
    done = swaks(daemon, "--auth", "PLAIN", "--auth-user", "acme", "--auth-password", daemon.token)
    assert done.returncode == 28 and daemon.token not in done.stdout, done.stdout
    assert not daemon.events()


@pytest.mark.parametrize(("mechanism", "binding"), [("SCRAM-SHA-256", ["--no-cb"]), ("SCRAM-SHA-256-PLUS", [])])
def test_gsasl_scram(door, mechanism, binding):
    """GNU SASL's own client, which checks the server's signature, and may bind what it says to the TLS session."""
    daemon, _ = door

    def gsasl(password):
        return peers.run("gsasl", "--smtp", "--client", "--connect", f"localhost:{daemon.smtp}", "--starttls", *binding,
                         f"--x509-ca-file={daemon.certificate}", f"--mechanism={mechanism}", "--authentication-id=acme",
                         f"--password={password}", "--quality-of-protection=qop-auth",
                         input="", timeout=30)

    done = gsasl(daemon.token)
    assert "235 2.7.0" in done.stdout + done.stderr, done.stdout + done.stderr
    done = gsasl("wrong")
    assert "535 5.7.8" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.fixture
def session(door):
    """An authenticated smtplib session."""
    daemon, _ = door
    context = ssl.create_default_context(cafile=daemon.certificate)
    with smtplib.SMTP("127.0.0.1", daemon.smtp, timeout=20) as session:
        session._host = NAME
        session.starttls(context=context)
        session.login("acme", daemon.token)
        yield session


LETTER = b"From: orders@shop.test\r\nSubject: x\r\n\r\nx\r\n"


def test_smtplib_holds_and_hurries(door, session):
    """FUTURERELEASE (RFC 4865), DELIVERBY (RFC 2852), MT-PRIORITY (RFC 6710)."""
    daemon, target = door
    for extension in ("futurerelease", "deliverby", "mt-priority", "auth"):
        assert session.has_extn(extension), extension
    session.sendmail("orders@shop.test", ["hold@them.test"], LETTER, mail_options=["HOLDFOR=3"])
    accepted = time.monotonic()
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    session.sendmail("orders@shop.test", ["later@them.test"], LETTER, mail_options=[f"HOLDUNTIL={until}"])
    session.sendmail("orders@shop.test", ["by@them.test"], LETTER, mail_options=["BY=7200;R", "MT-PRIORITY=-4"])
    assert daemon.wait_event("by@them.test")["class"] == "bulk"
    daemon.wait_event("hold@them.test")
    assert time.monotonic() - accepted > 2
    assert [mail.recipients for mail in target.mails] == [["by@them.test"], ["hold@them.test"]]
    listed = json.loads(daemon.cli("queue", "list", "--json", "--config", daemon.file).stdout)
    assert "later@them.test" in json.dumps(listed) or len(listed) == 1
    for wrong in (["HOLDFOR=-1"], ["HOLDFOR=10", f"HOLDUNTIL={until}"], ["BY=0;R"], ["MT-PRIORITY=10"]):
        code, text = session.mail("orders@shop.test", wrong)
        assert code in (501, 555), (wrong, code, text)
        session.rset()


def test_smtplib_sends_a_key_again(door, session):
    daemon, target = door
    letter = b"X-Posthaste-Idempotency-Key: order-1\r\n" + LETTER
    replies = []
    for date in (b"Date: Mon, 1 Jan 2026 00:00:00 +0000\r\n", b"Date: Mon, 1 Jan 2026 00:00:05 +0000\r\n"):
        session.mail("orders@shop.test")
        session.rcpt("a@them.test")
        replies.append(session.data(date + letter))
    assert [code for code, _ in replies] == [250, 250]
    session.mail("orders@shop.test")
    session.rcpt("a@them.test")
    code, text = session.data(letter + b"more\r\n")
    assert code // 100 == 5 and b"idempotency key" in text, text
    daemon.wait_terminal(["a@them.test"])
    assert len({event["message_id"] for event in daemon.events()}) == 1 == len(target.mails)


def test_others_names_are_refused(door, session):
    with pytest.raises((smtplib.SMTPSenderRefused, smtplib.SMTPDataError)) as refused:
        session.sendmail("ceo@bank.test", ["a@them.test"], b"From: ceo@bank.test\r\n\r\nx\r\n")
    assert refused.value.smtp_code == 550, refused.value
    with pytest.raises(smtplib.SMTPDataError) as refused:
        session.sendmail("orders@shop.test", ["a@them.test"], b"From: ceo@bank.test\r\n\r\nx\r\n")
    assert refused.value.smtp_code == 550, refused.value


NODEMAILER = """
const nodemailer = require("nodemailer");
const [port, user, pass, secure] = process.argv.slice(2);
const options = { host: "127.0.0.1", port: Number(port), secure: secure === "true", requireTLS: true,
  tls: { ca: require("fs").readFileSync(process.env.CA), servername: "mta.shop.test" }, auth: { user, pass },
  pool: true, maxConnections: 2 };
const transport = nodemailer.createTransport(options);
const send = n => transport.sendMail({
  from: '"The shöp" <orders@shop.test>', to: `u${n}@them.test`, subject: "Grüße", text: "hello", html: "<b>hello</b>",
  attachments: [{ filename: "Zoë.txt", content: "x" }],
  headers: { "X-Posthaste-Campaign": "spring", "X-Posthaste-Idempotency-Key": `node/${n}` },
  dsn: { id: "dsn-1", return: "headers", notify: ["failure"], recipient: "orders@shop.test" },
});
Promise.all([...Array(20).keys()].map(send))
  .then(infos => console.log(JSON.stringify(infos.map(info => info.response))))
  .catch(error => { console.error(error.responseCode, error.response || error.message); process.exitCode = 1; })
  .finally(() => transport.close());
"""


@pytest.mark.parametrize("secure", ["false", "true"], ids=["starttls", "tls"])
def test_nodemailer(door, secure, tmp_path):
    daemon, target = door
    script = tmp_path / "send.js"
    script.write_text(NODEMAILER)

    def node(password):
        port = daemon.smtps if secure == "true" else daemon.smtp
        return peers.node(tmp_path / "node", script, port, "acme", password, secure, CA=daemon.certificate)

    for _ in range(2):
        done = node(daemon.token)
        assert done.returncode == 0, done.stdout + done.stderr
        responses = json.loads(done.stdout)
        assert len(responses) == 20 and all(response.startswith("250 ") for response in responses)
    ends = daemon.wait_terminal([f"u{n}@them.test" for n in range(20)])
    assert {(end["tenant"], end["campaign"]) for end in ends.values()} == {("acme", "spring")}
    assert len(target.mails) == 20 and "ENVID=dsn-1" in target.mails[0].mail_parameters
    done = node("wrong")
    assert done.returncode == 1 and done.stderr.startswith("535 "), done.stdout + done.stderr

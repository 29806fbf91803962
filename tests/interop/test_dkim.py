"""Signatures, verified by opendkim and by dkimpy."""

import base64
import re
import subprocess

import dkim
import peers
import pytest
from conftest import relay
from posthaste import BINARY, toml

HEAD = b"From: The shop <orders@shop.test>\r\nTo: a@them.test\r\nSubject: Your order\r\n"
LONG = (b"References: " + b"\r\n ".join(b"<message-%d@shop.test>" % n for n in range(200)) + b"\r\n"
        b"Subject: folded\r\n\tand\r\n   folded  again   \r\nList-Unsubscribe: <https://shop.test/u/" + b"x" * 400 + b">\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nFeedback-ID: a:b:c:shop\r\n")

BODIES = {
    "plain": b"hello\r\n",
    "blank lines at the end": b"hello\r\n\r\n\r\n\r\n",
    "lines of spaces at the end": b"hello\r\n   \r\n \r\n",
    "lines of tabs at the end": b"hello\r\n\t\r\n\t \t\r\n\r\n \r\n",
    "spaces at line ends": b"hello   \r\nworld\t\t\r\n a  b \t c\r\n",
    "no line end": b"hello",
    "spaces and no line end": b"hello\r\n   ",
    "empty": b"",
    "one line end": b"\r\n",
    "only spaces": b"   \r\n \t \r\n",
    "dots": b".\r\n..\r\n.hello\r\n",
    "8-bit": "Grüße aus Köln\r\n".encode(),
    "long": b"a line of sixty octets that is repeated until it is long ...\r\n" * 3000,
}


@pytest.fixture
def keys(tmp_path):
    """Private keys and the records that publish them, made by openssl: {selector: (file, record)}."""

    def openssl(*words):
        return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True).stdout

    rsa, ed = tmp_path / "rsa.pem", tmp_path / "ed25519.pem"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", rsa)
    openssl("genpkey", "-algorithm", "ed25519", "-out", ed)
    rsa_public = base64.b64encode(openssl("pkey", "-in", rsa, "-pubout", "-outform", "DER")).decode()
    ed_public = base64.b64encode(openssl("pkey", "-in", ed, "-pubout", "-outform", "DER")[-32:]).decode()
    return {"r1": (rsa, f"v=DKIM1; k=rsa; p={rsa_public}"), "e1": (ed, f"v=DKIM1; k=ed25519; p={ed_public}")}


def dkim_config(keys, *selectors, domain="shop.test"):
    return {"dkim": [{"domain": domain, "selector": s, "key_file": str(keys[s][0])} for s in selectors]}


def verify_dkimpy(message, keys):
    """The number of signatures, all of which dkimpy accepts."""
    records = {f"{selector}._domainkey.shop.test.".encode(): record.encode() for selector, (_, record) in keys.items()}
    verifier = dkim.DKIM(message)
    count = sum(1 for name, _ in verifier.headers if name.lower() == b"dkim-signature")
    for index in range(count):
        assert verifier.verify(idx=index, dnsfunc=lambda name, timeout=5: records.get(name)), f"signature {index}"
    return count


def verify_opendkim(message, keys, directory):
    """What opendkim says of the message, all of it."""
    (directory / "keys").write_text("".join(f"{s}._domainkey.shop.test {r}\n" for s, (_, r) in keys.items()))
    (directory / "opendkim.conf").write_text(f"Mode v\nSyslog no\nTestPublicKeys {directory}/keys\n")
    (directory / "message").write_bytes(message)
    done = peers.run("opendkim", "-x", directory / "opendkim.conf", "-t", directory / "message", "-vv")
    return done.stdout + done.stderr


@pytest.mark.parametrize("selector", ["r1", "e1"])
def test_every_body_verifies(start, sink, keys, tmp_path, selector):
    target = sink()
    daemon = start({**relay(target), **dkim_config(keys, selector)})
    names = {f"body{n}@them.test": name for n, name in enumerate(BODIES)}
    for recipient, name in names.items():
        daemon.send(recipient, HEAD + b"\r\n" + BODIES[name], mail_options=["BODY=8BITMIME"])
    daemon.send("long-headers@them.test", HEAD.replace(b"Subject: Your order\r\n", LONG) + b"\r\nhello\r\n")
    target.wait(len(BODIES) + 1)
    for mail in target.mails:
        what = names.get(mail.recipients[0], "long headers")
        try:
            assert verify_dkimpy(mail.content, keys) == 1
        except Exception as error:
            raise AssertionError(f"dkimpy, {what}: {error}") from error
        said = verify_opendkim(mail.content, keys, tmp_path)
        assert f"verification (s={selector}, d=shop.test" in said and "succeeded" in said, f"opendkim, {what}: {said}"


def test_two_keys_make_two_signatures(start, sink, keys, tmp_path):
    target = sink()
    daemon = start({**relay(target), **dkim_config(keys, "r1", "e1")})
    daemon.send("a@them.test", HEAD + b"\r\nhello\r\n \r\n")
    message = target.wait(1)[0].content
    assert verify_dkimpy(message, keys) == 2
    assert "succeeded" in verify_opendkim(message, keys, tmp_path)


def test_a_changed_message_does_not_verify(start, sink, keys, tmp_path):
    """The verifiers do look, and the headers that matter are signed once more than they occur."""
    target = sink()
    daemon = start({**relay(target), **dkim_config(keys, "r1")})
    daemon.send("a@them.test", HEAD + b"\r\nhello\r\n")
    message = target.wait(1)[0].content
    for changed in (message.replace(b"hello", b"hullo"),
                    message.replace(b"Subject: Your order", b"Subject: Your odour"),
                    *(name + b": added\r\n" + message for name in (b"From", b"Subject", b"To", b"Date", b"Message-ID",
                                                                   b"List-Unsubscribe", b"List-Unsubscribe-Post",
                                                                   b"Feedback-ID"))):
        with pytest.raises((AssertionError, dkim.DKIMException)):
            verify_dkimpy(changed, keys)
        assert "succeeded" not in verify_opendkim(changed, keys, tmp_path), changed[:60]


def test_only_the_configured_domain_is_signed(start, sink, keys):
    target = sink()
    daemon = start({**relay(target), **dkim_config(keys, "r1")})
    daemon.send("a@them.test", b"From: a@other.test\r\nSubject: x\r\n\r\nhello\r\n")
    assert b"DKIM-Signature" not in target.wait(1)[0].content


def test_a_retry_carries_the_same_signature(start, sink, keys):
    seen = []

    def once(address, sender):
        seen.append(address)
        return "451 4.7.1 greylisted" if len(seen) == 1 else None

    target = sink(verdict=once)
    daemon = start({**relay(target), **dkim_config(keys, "r1")})
    daemon.send("a@them.test", HEAD + b"\r\nhello\r\n")
    assert verify_dkimpy(target.wait(1)[0].content, keys) == 1


def test_our_own_key_tools(start, sink, tmp_path):
    """`dkim generate` and `dkim dns` make keys and records that both verifiers accept."""
    target, dkim_keys = sink(), {}
    for selector, kind in (("r2", "rsa"), ("e2", "ed25519")):
        file = tmp_path / f"{selector}.pem"
        subprocess.run([BINARY, "dkim", "generate", "--domain", "shop.test", "--selector", selector,
                        "--algorithm", kind, "--out", file], check=True, capture_output=True)
        assert file.stat().st_mode & 0o077 == 0, "a private key is private"
        dkim_keys[selector] = (file, "")
    config = tmp_path / "keys.toml"
    config.write_text(toml(dkim_config(dkim_keys, "r2", "e2")))
    shown = subprocess.run([BINARY, "dkim", "dns", "--config", config], check=True, capture_output=True,
                           text=True).stdout
    for selector, (file, _) in dkim_keys.items():
        # `NAME IN TXT ( "…" "…" )`, as a zone file wants it.
        entry = shown.partition(f"{selector}._domainkey.shop.test")[2].partition("_domainkey")[0]
        record = "".join(re.findall(r'"([^"]*)"', entry))
        assert record.startswith("v=DKIM1"), shown
        dkim_keys[selector] = (file, record)
    daemon = start({**relay(target), **dkim_config(dkim_keys, "r2", "e2")})
    daemon.send("a@them.test", HEAD + b"\r\nhello\r\n")
    message = target.wait(1)[0].content
    assert verify_dkimpy(message, dkim_keys) == 2
    assert "succeeded" in verify_opendkim(message, dkim_keys, tmp_path)


def test_a_key_that_cannot_be_used_holds_the_mail(start, sink, keys):
    """Nothing goes out unsigned when a key is configured."""
    target = sink()
    config = {**relay(target), **dkim_config(keys, "r1")}
    daemon = start(config)
    daemon.send("a@them.test", HEAD + b"\r\nhello\r\n")
    target.wait(1)
    keys["r1"][0].write_text("this is no key\n")
    daemon.signal()
    peers.wait_until(lambda: "r1" in daemon.log() or "key" in daemon.log(), what="a word about the key")
    daemon.send("b@them.test", HEAD + b"\r\nhello\r\n")
    try:
        peers.wait_until(lambda: target.to("b@them.test"), 3)
    except TimeoutError:
        return
    assert verify_dkimpy(target.to("b@them.test")[0].content, keys) == 1, "the old key may go on; unsigned may not"

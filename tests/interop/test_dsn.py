"""Reports of failures, read by Python's email package (RFC 3461, 3464)."""

import email
import email.policy

import peers
import pytest


@pytest.fixture
def site(start, sink):
    """A receiver that refuses `no…@`, another for the sender's domain, a daemon between them."""
    target = sink(verdict=lambda address, sender: "550 5.1.1 no such <user>" if address.startswith("no") else None)
    home = sink()
    daemon = start({"route": [
        {"match": "shop.test", "relay": [f"127.0.0.1:{home.port}"]},
        {"match": "refusing-home.test", "relay": [f"127.0.0.1:{target.port}"]},
        {"match": "*", "relay": [f"127.0.0.1:{target.port}"]},
    ]})
    return daemon, target, home


def report(mail):
    """(message, its three parts) of a report, checked against RFC 3464 §2."""
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert mail.sender == "", "a report has a null sender"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert not message.defects and message["Date"] and message["Message-ID"] and message["From"]
    assert message["Auto-Submitted"] == "auto-replied"
    words, status, returned = message.iter_parts()
    assert words.get_content_type() == "text/plain"
    assert status.get_content_type() == "message/delivery-status"
    return message, words.get_content(), status.get_payload(), returned


MESSAGE = b"Subject: the first\r\nX-Mark: 42\r\n\r\nbody of the first\r\n"


def test_a_refusal_is_reported_to_the_sender(site):
    daemon, _, home = site
    daemon.send(["yes@them.test", "no@them.test"], MESSAGE, mail_options=["ENVID=QQ314159"],
                rcpt_options=["ORCPT=rfc822;first+40them.test"])
    mail = home.wait(1)[0]
    assert mail.recipients == ["orders@shop.test"]
    message, words, status, returned = report(mail)
    assert message["To"] == "orders@shop.test"
    assert "no@them.test" in words and "no such <user>" in words
    assert "yes@them.test" not in words
    per_message, recipient = status
    assert per_message["Reporting-MTA"] == "dns; mta.shop.test"
    assert per_message["Original-Envelope-Id"] == "QQ314159"
    assert recipient["Final-Recipient"].replace(" ", "") == "rfc822;no@them.test"
    assert recipient["Original-Recipient"].replace(" ", "").lower() == "rfc822;first@them.test"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.1")
    assert recipient["Diagnostic-Code"].startswith("smtp; 550 5.1.1")
    assert recipient["Remote-MTA"].startswith("dns;")
    assert returned.get_content_type() in ("message/rfc822", "text/rfc822-headers")
    assert "X-Mark: 42" in returned.as_string()
    # It is accounted for like any other mail.
    assert daemon.wait_event("orders@shop.test")["event"] == "delivered"


@pytest.mark.parametrize(("ret", "whole"), [("FULL", True), ("HDRS", False)])
def test_ret_says_how_much_comes_back(site, ret, whole):
    daemon, _, home = site
    daemon.send("no@them.test", MESSAGE, mail_options=[f"RET={ret}"])
    _, _, _, returned = report(home.wait(1)[0])
    assert "X-Mark: 42" in returned.as_string()
    assert ("body of the first" in returned.as_string()) == whole


def test_several_refused_share_one_report_or_have_one_each(site):
    daemon, _, home = site
    refused = [f"no{n}@them.test" for n in range(3)]
    daemon.send(refused, MESSAGE)
    daemon.wait_terminal(refused)

    def named():
        return sorted(each["Final-Recipient"].partition(";")[2].strip()
                      for mail in home.mails for each in report(mail)[2][1:])

    peers.wait_until(lambda: named() == refused, what="each refused recipient reported once")


def test_notify_never_and_success_only_mean_silence(site):
    daemon, _, home = site
    daemon.send("no1@them.test", MESSAGE, rcpt_options=["NOTIFY=NEVER"])
    daemon.send("no2@them.test", MESSAGE, rcpt_options=["NOTIFY=SUCCESS"])
    daemon.send("no3@them.test", MESSAGE, rcpt_options=["NOTIFY=FAILURE"])
    daemon.wait_terminal(["no1@them.test", "no2@them.test", "no3@them.test"])
    home.wait(1)
    daemon.wait_event("orders@shop.test")
    assert len(home.mails) == 1 and "no3@them.test" in report(home.mails[0])[1]


def test_never_a_bounce_of_a_bounce(site):
    daemon, _, home = site
    # Null sender: nobody to tell.
    daemon.send("no@them.test", MESSAGE, sender="")
    daemon.wait_terminal(["no@them.test"])
    # The report itself is refused: that is the end of it.
    daemon.send("no2@them.test", MESSAGE, sender="nobody@refusing-home.test")
    ends = daemon.wait_terminal(["no2@them.test", "nobody@refusing-home.test"])
    assert ends["nobody@refusing-home.test"]["event"] == "bounced"
    assert daemon.stop() == 0
    recipients = {event["recipient"] for event in daemon.events()}
    assert recipients == {"no@them.test", "no2@them.test", "nobody@refusing-home.test"}
    assert not home.mails


def test_expiry_is_reported(start, sink):
    target, home = sink(verdict=lambda address, sender: "451 4.2.0 not now"), sink()
    daemon = start({
        "route": [{"match": "shop.test", "relay": [f"127.0.0.1:{home.port}"]},
                  {"match": "*", "relay": [f"127.0.0.1:{target.port}"]}],
        "retry": {"delay_min": "1s", "delay_max": "1s", "expire_after": "3s"},
    })
    late = [f"late{n}@them.test" for n in range(20)]
    for recipient in late:
        daemon.send(recipient, MESSAGE)
    ends = daemon.wait_terminal(late)
    assert {ends[recipient]["event"] for recipient in late} == {"expired"}
    home.wait(20)
    assert daemon.stop() == 0
    assert daemon.wait_terminal(late) and len(home.mails) == 20, "one end, one report each"
    for mail in home.mails:
        _, words, (_, recipient), _ = report(mail)
        assert recipient["Action"] == "failed" and "late" in words
        # The last word of the receiver is there, or that it had none.
        assert "not now" in words or recipient["Status"] == "4.4.7", words
    assert daemon.events(late[0], ["deferred"])


def test_eight_bit_and_utf8_messages_are_reported(site):
    daemon, _, home = site
    daemon.send("no-ø@them.test", "Subject: smørrebrød\r\n\r\nhei\r\n".encode(), sender="orders@shop.test",
                mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    mail = home.wait(1)[0]
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    types = [part.get_content_type() for part in message.iter_parts()]
    assert types[1] in ("message/delivery-status", "message/global-delivery-status"), types

"""Name servers that misbehave. Mail to the names that they answer for waits, mail to others goes out, and once they are well
it gets there."""

import contextlib
import signal
import socket
import threading

import pytest
from test_disk import whole
from test_receivers import QUICK


class Names:
    """A name server that answers each question with what `answer(question)` makes of it; `None` is silence."""

    def __init__(self):
        self.answer, self.asked = None, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                question, client = self.socket.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            answer = self.answer(question) if self.answer else None
            if answer is not None:
                with contextlib.suppress(OSError):
                    self.socket.sendto(answer, client)

    def stop(self):
        self.socket.close()


def servfail(question):
    return question[:2] + b"\x81\x82" + question[4:6] + b"\0\0\0\0\0\0" + question[12:]


def name_end(question):
    return question.index(b"\0", 12) + 5


def good(question):
    """Every name has the address 127.0.0.1 and no MX."""
    end = name_end(question)
    kind = question[end - 4:end - 2]
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if kind == b"\0\1" else b""
    return question[:2] + b"\x81\x80\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0" + question[12:end] + answer


def garbage(question):
    return question[:2] + b"\xff" * 60


def cut_short(question):
    return good(question)[:-3]


def loops(question):
    """A name that points to itself."""
    end = name_end(question)
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] + b"\xc0" + bytes([end]) + question[end - 4:end] \
        + b"\0\0\0\1\0\4\x7f\0\0\1"


def of_another_name(question):
    """The right number and question, and an address for a name nobody asked for."""
    end = name_end(question)
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] \
        + b"\5other\4test\0\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1"


def of_another_question(question):
    return question[:2] + b"\x81\x80\0\1\0\0\0\0\0\0\5other\4test\0\0\1\0\1"


def with_another_number(question):
    return bytes([question[0] ^ 1]) + good(question)[1:]


@pytest.mark.parametrize("lie", [None, servfail, garbage, cut_short, loops, with_another_number, of_another_question,
                                 of_another_name])
def test_name_server(make, sink, stack, lie):
    """Dead, failing or lying: no verdict on the mail, and delivered when it is well again. That a look-up failed is
    remembered for a while; an operator who does not want to wait reloads."""
    names, target = Names(), sink()
    stack.callback(names.stop)
    names.answer = lie
    daemon = make({"dns": {"nameservers": [f"127.0.0.1:{names.port}"], "timeout": "1s"},
                   "delivery": {"port": target.port, **QUICK["delivery"]}, "retry": QUICK["retry"]}).start()
    recipients = [f"user@{name}.shop.test" for name in ("one", "two", "three")]
    for recipient in recipients:
        daemon.send(recipient)
    for recipient in recipients:
        event = daemon.wait_event(recipient, "deferred", "bounced", "delivered", timeout=10)
        assert event["event"] == "deferred" and event["enhanced"].startswith("4.4."), event
    assert names.asked and daemon.ready()
    assert not target.mails, "somebody's address was believed"
    names.answer = good
    daemon.send("user@four.shop.test")
    assert daemon.wait_event("user@four.shop.test", timeout=10)["event"] == "delivered"
    daemon.signal(signal.SIGHUP)
    daemon.wait_terminal(recipients, timeout=10)
    whole(daemon, target, [*recipients, "user@four.shop.test"])

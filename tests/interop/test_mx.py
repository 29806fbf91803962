"""Two hundred domains from NSD: what each one's DNS means for its mail."""

import dataclasses

import peers
import pytest

SETS, DOMAINS_PER_SET = 8, 10
ALIVE = [f"127.0.1.{n}" for n in range(1, SETS + 1)]
# Nobody listens here: a connection is refused at once.
DEAD = "127.0.1.200"


@dataclasses.dataclass
class Case:
    """A domain, its records, and what must become of mail for it."""

    name: str
    records: list
    event: str
    enhanced: str = ""
    hosts: tuple = ()


def cases():
    """All 200, in a fixed order. Host names are relative to the zone."""
    found = []

    def add(kind, count, records, event, enhanced="", hosts=()):
        for n in range(count):
            made = [line.format(n=n, host=f"mx{n % SETS + 1}", other=f"mx{(n + 1) % SETS + 1}") for line in records]
            expected = tuple(h.format(own=ALIVE[n % SETS], other=ALIVE[(n + 1) % SETS]) for h in hosts)
            found.append(Case(f"{kind}{n}", made, event, enhanced, expected))

    for group in range(SETS):
        add(f"set{group}-", DOMAINS_PER_SET, [f"MX 10 mx{group + 1}"], "delivered", hosts=(ALIVE[group],))
    add("preference", 10, ["MX 20 {other}", "MX 10 {host}"], "delivered", hosts=("{own}",))
    add("deadfirst", 10, ["MX 10 dead", "MX 20 {host}"], "delivered", hosts=("{own}",))
    add("equal", 10, ["MX 10 {host}", "MX 10 {other}"], "delivered", hosts=("{own}", "{other}"))
    add("nullmx", 10, ["MX 0 ."], "bounced", "5.1.10")
    add("implicit", 10, ["A 127.0.1.1"], "delivered", hosts=("127.0.1.1",))
    add("cnamedmx", 10, ["MX 10 alias{n}"], "delivered", hosts=("{own}",))
    add("cname", 10, ["CNAME set0-{n}"], "delivered", hosts=(ALIVE[0],))
    add("missingfirst", 10, ["MX 10 missing", "MX 20 {host}"], "delivered", hosts=("{own}",))
    add("missing", 5, ["MX 10 missing"], "deferred", "4.4.4")
    add("sixonly", 10, ["MX 10 six"], "delivered", hosts=("::1",))
    add("siximplicit", 5, ["AAAA ::1"], "delivered", hosts=("::1",))
    add("nothing", 5, ['TXT "no mail here"'], "bounced", "5.4.4")
    add("alldead", 5, ["MX 10 dead"], "deferred", "4.4.1")
    add("nxdomain", 5, [], "bounced", "5.1.2")
    found += [Case(f"servfail{n}", [], "deferred", "4.4.3") for n in range(5)]
    assert len(found) == 200, len(found)
    return found


def address(case):
    zone = "broken" if case.name.startswith("servfail") else "test"
    return f"user@{case.name}.{zone}"


def zone():
    lines = ["$ORIGIN test.", "$TTL 300", "@ SOA ns hostmaster 1 3600 600 86400 30", "@ NS ns", "ns A 127.0.0.1",
             f"dead A {DEAD}", "six AAAA ::1", "shop MX 10 mx1"]
    lines += [f"mx{n + 1} A {ip}" for n, ip in enumerate(ALIVE)]
    lines += [f"alias{n} CNAME mx{n % SETS + 1}" for n in range(10)]
    lines += [f"{case.name} {record}" for case in cases() for record in case.records]
    return "\n".join(lines) + "\n"


def config_for(server, port, **delivery):
    return {
        "dns": {"nameservers": [f"{server.address}:{server.port}"], "timeout": "5s"},
        "delivery": {"port": port, **delivery},
        "retry": {"delay_min": "5m", "delay_max": "4h"},
    }


@pytest.fixture
def site(nsd, sink, start):
    """The name server, a sink on every MX address, and a daemon between them."""
    server = nsd({"test": zone(), "broken": None})
    target = sink(addresses=(*ALIVE, "::1"))
    daemon = start(config_for(server, target.port, connections_per_site=2))
    return server, target, daemon


def test_two_hundred_domains(site):
    _, target, daemon = site
    for case in cases():
        daemon.send(address(case), b"Subject: %s\r\n\r\nhello\r\n" % case.name.encode())
    wrong = []
    for case in cases():
        event = daemon.wait_event(address(case), "delivered", "bounced", "expired", "deferred", timeout=60)
        if event["event"] != case.event or not (event.get("enhanced") or "").startswith(case.enhanced):
            wrong.append(f"{case.name}: {event['event']} {event.get('enhanced')} {event.get('reply')}")
            continue
        hosts = {mail.host for mail in target.to(address(case))}
        if not hosts <= set(case.hosts) or bool(hosts) != (case.event == "delivered"):
            wrong.append(f"{case.name}: arrived at {hosts or 'nowhere'}")
    assert not wrong, "\n".join(wrong)
    # Nothing that waits was given up, nothing arrived twice.
    assert len(daemon.wait_terminal([address(c) for c in cases() if c.event != "deferred"])) >= 180
    for case in cases():
        assert len(target.to(address(case))) <= 1, case.name
    # Mail for failed domains came back to the sender, nothing else did.
    bounced = [case for case in cases() if case.event == "bounced"]
    peers.wait_until(lambda: len(target.to("orders@shop.test")) == len(bounced), what="reports")


def test_domains_behind_one_mx_set_share_their_sessions(site):
    _, target, daemon = site
    for _ in range(5):
        for n in range(DOMAINS_PER_SET):
            daemon.send(f"user@set3-{n}.test")
    peers.wait_until(lambda: len(daemon.events(names=["delivered"])) == 50, what="50 deliveries")
    assert len({event["site"] for event in daemon.events()}) == 1
    assert target.open_max[ALIVE[3]] <= 2, "ten domains, one limit"
    assert target.connections[ALIVE[3]] <= 10, f"{target.connections[ALIVE[3]]} connections for 50 messages"


def test_equal_preferences_share_the_load(site):
    _, target, daemon = site
    for n in range(10):
        for each in range(4):
            daemon.send(f"user{each}@equal{n}.test")
    target.wait(40)
    assert len({mail.host for mail in target.mails}) > 1


def test_a_repaired_domain_recovers(nsd, sink, start, tmp_path):
    """SERVFAIL is no verdict: the mail waits, through a restart too, and goes out once the zone is there."""
    broken = nsd({"test": zone(), "broken": None})
    target = sink(addresses=(*ALIVE, "::1"))
    config = config_for(broken, target.port)
    config["retry"] = {"delay_min": "1s", "delay_max": "1s"}
    daemon = start(config)
    daemon.send("user@servfail0.broken")
    daemon.wait_event("user@servfail0.broken", "deferred")
    broken.stop()
    # The same port, now with the zone.
    repaired = tmp_path / "nsd"
    (repaired / "broken.zone").write_text("$ORIGIN broken.\n$TTL 300\n@ SOA ns h 1 3600 600 86400 30\n@ NS ns.test.\n"
                                          "servfail0 MX 10 mx1.test.\n")
    peers.wait_until(lambda: not peers.listens(broken.address, broken.port))
    again = peers.Process([peers.program("nsd"), "-d", "-c", repaired / "nsd.conf"], repaired / "again.log",
                          env=peers.environment())
    try:
        # The failed look-up is remembered for a minute, but not by a new process.
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.wait_event("user@servfail0.broken")["event"] == "delivered"
    finally:
        again.stop()


def test_a_dead_name_server_defers(start, sink):
    target = sink()
    nowhere = peers.free_port()
    daemon = start({"dns": {"nameservers": [f"127.0.0.1:{nowhere}"], "timeout": "2s"},
                    "delivery": {"port": target.port}})
    daemon.send("user@set0-0.test")
    event = daemon.wait_event("user@set0-0.test", "deferred", "bounced")
    assert (event["event"], event["enhanced"]) == ("deferred", "4.4.3"), event


def test_loopback_hosts_are_refused_unless_allowed(nsd, sink, start):
    server, target = nsd({"test": zone()}), sink(addresses=(*ALIVE, "::1"))
    config = config_for(server, target.port)
    config["delivery"]["allow_loopback"] = False
    daemon = start(config)
    daemon.send(["user@set0-0.test", "user@sixonly0.test", "user@[127.0.1.1]"])
    for recipient in ("user@set0-0.test", "user@sixonly0.test", "user@[127.0.1.1]"):
        assert daemon.wait_event(recipient, "deferred", "bounced")["event"] != "delivered"
    assert not target.mails and not target.connections

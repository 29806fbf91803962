"""Programs nobody here wrote: where they are, and how to run them on loopback.

`setup` unpacked Debian packages below INTEROP_ROOT; programs that only need their libraries found run straight from
there, Postfix and Exim run in a mount namespace (`in-root`).
"""

import ctypes
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = pathlib.Path(os.environ["INTEROP_ROOT"])
EXIM_ROOT = ROOT.parent / "exim"
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def environment():
    """Where unpacked programs find their libraries and Perl modules."""
    libraries = [str(path) for path in [*ROOT.glob("usr/lib/*-linux-gnu"), ROOT / "usr/lib", ROOT / "usr/lib/postfix"]]
    perl = [*ROOT.glob("usr/share/perl*"), *ROOT.glob("usr/share/perl/*"), *ROOT.glob("usr/lib/*-linux-gnu/perl*/*")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PERL5LIB": ":".join(str(path) for path in perl),
        "LC_ALL": "C.UTF-8",
    }


def program(name):
    """The path of an unpacked program."""
    for folder in ("usr/bin", "usr/sbin"):
        if (ROOT / folder / name).exists():
            return str(ROOT / folder / name)
    raise FileNotFoundError(name)


def run(name, *arguments, **options):
    """Runs an unpacked program to its end."""
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([program(name), *map(str, arguments)], env=environment(), **options)


def wait_until(condition, timeout=20.0, what="condition"):
    """Calls `condition` until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.02)


def listens(address, port):
    """Whether something accepts connections there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def free_port(*addresses):
    """A port free on all addresses (TCP and UDP) a moment ago; none that the system gives to connections of others meanwhile."""
    addresses = addresses or ("127.0.0.1",)
    for _ in range(100):
        port = 10_000 + secrets.randbelow(22_000)
        held = []
        try:
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.append(socket.socket(family, kind))
                    held[-1].bind((address, port))
            return port
        except OSError:
            continue
        finally:
            for each in held:
                each.close()
    raise OSError("no free port")


def certificate(directory, name, *names):
    """A self-signed certificate and its key for `name` and more `names`, as paths."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=" + ",".join(f"DNS:{each}" for each in (name, *names)), "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key


def authority(directory):
    """An authority for client certificates: its certificate, and `issue(name)` for one's chain and key."""

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    root, root_key = directory / "authority.pem", directory / "authority.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=authority", "-keyout", root_key, "-out", root)

    def issue(name):
        cert, key, asked = (directory / f"{name}.{end}" for end in ("pem", "key", "csr"))
        extensions = directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")
        openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
        openssl("x509", "-req", "-in", asked, "-CA", root, "-CAkey", root_key, "-days", "2", "-extfile", extensions,
                "-set_serial", str(time.time_ns()), "-out", cert)
        return cert, key

    return root, issue


# gRPC's library would start its threads again in each child that we fork, and abort there when the child closes its files before it
# becomes the program that was meant. It reads this when it is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def die_with_us():
    """In a child: it is killed when this thread ends, however that comes about.

    A suite that is itself killed (by hand, or for taking too long) ends without its fixtures, and `unshare` takes no
    SIGTERM: what it runs would go on for ever.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program in the background, with its output in a file, leader of a process group of its own.

    It is stopped by its own process id, and whatever it left behind by its group's. Start it from the main thread."""

    def __init__(self, command, log, **options):
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=die_with_us, **options
            )

    def running(self):
        return self.child.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def stop(self, grace=10):
        """SIGTERM, then SIGKILL, to all of its group. The exit code."""
        if self.running():
            self.child.terminate()
            try:
                self.child.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.child.wait()


def node(work, script, *arguments, **variables):
    """Runs a script with Debian's Node, which finds its own parts only in their place: in the root, `work` beside it."""
    command = [HERE / "in-root", ROOT, work, "/usr/bin/node", script, *arguments]
    environment = {**os.environ, "NODE_PATH": "/usr/share/nodejs", **{key: str(value) for key, value in variables.items()}}
    return subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=60)


class Nsd:
    """NSD, authoritative for some zones. A zone without text is configured but has no file: SERVFAIL."""

    def __init__(self, directory, zones):
        self.address, self.port = "127.0.0.1", free_port()
        config = [
            "server:",
            f"  ip-address: {self.address}@{self.port}",
            '  username: ""', '  chroot: ""', "  server-count: 1", "  verbosity: 1",
            f'  zonesdir: "{directory}"', f'  database: ""', f'  pidfile: "{directory}/nsd.pid"',
            f'  zonelistfile: "{directory}/zone.list"', f'  xfrdfile: "{directory}/xfrd.state"',
            f'  xfrdir: "{directory}"', "  refuse-any: yes", "  rrl-ratelimit: 0",
            "remote-control:", "  control-enable: no",
        ]
        for name, text in zones.items():
            config += ["zone:", f"  name: {name}", f"  zonefile: {name}.zone"]
            if text is not None:
                (directory / f"{name}.zone").write_text(text)
        (directory / "nsd.conf").write_text("\n".join(config) + "\n")
        self.process = Process([program("nsd"), "-d", "-c", directory / "nsd.conf"], directory / "nsd.log",
                               env=environment())
        wait_until(lambda: listens(self.address, self.port), what="nsd")

    def stop(self):
        self.process.stop()


class Socks:
    """microsocks, a SOCKS5 proxy that sends from `source`; `words` are its options for a password."""

    def __init__(self, directory, source, *words):
        self.port = free_port()
        command = [program("microsocks"), "-i", "127.0.0.1", "-p", str(self.port), "-b", source, *words]
        self.process = Process(command, directory / "microsocks.log", env=environment())
        wait_until(lambda: listens("127.0.0.1", self.port), what="microsocks")

    def stop(self):
        self.process.stop()


HAPROXY_CFG = """
global
    log stderr local0
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen egress
    bind 127.0.0.1:{port} accept-proxy
    server receiver 0.0.0.0 source 0.0.0.0 usesrc clientip
"""


class Haproxy:
    """HAProxy, connecting from and to what the PROXY header says."""

    def __init__(self, directory):
        self.port = free_port()
        (directory / "haproxy.cfg").write_text(HAPROXY_CFG.format(port=self.port))
        command = [program("haproxy"), "-db", "-f", directory / "haproxy.cfg"]
        self.process = Process(command, directory / "haproxy.log", env=environment())
        wait_until(lambda: listens("127.0.0.1", self.port), what="haproxy")

    def stop(self):
        self.process.stop()


class Postfix:
    """Postfix as a receiving server with STARTTLS, delivering to maildirs; `extra` are more lines of main.cf, `services` of
    master.cf."""

    def __init__(self, directory, address, port, hostname="mx.postfix.test", extra="", services=""):
        self.directory, self.address, self.port = directory, address, port
        self.maillog = directory / "log" / "mail.log"
        etc = directory / "etc" / "postfix"
        etc.mkdir(parents=True)
        for each in ("log", "varlib/mail", "spool/postfix/pid", "varlib/postfix"):
            (directory / each).mkdir(parents=True)
        os.chown(directory / "varlib/mail", 3101, 3101)
        cert, key = certificate(etc, hostname)
        (etc / "main.cf").write_text(MAIN_CF.format(hostname=hostname, cert=cert.name, key=key.name)
                                     + extra + "\n")
        (etc / "master.cf").write_text(MASTER_CF.format(address=address, port=port) + services)
        # Everybody shares one mailbox, except who is called nobody.
        (etc / "mailboxes").write_text("if !/^nobody/\n/^[^@]+@/ all/\nendif\n")
        self.process = Process([HERE / "in-root", ROOT, directory, "bash", "-euc", START_POSTFIX],
                               directory / "postfix.log")
        wait_until(lambda: listens(address, port) or not self.process.running(), what="postfix")
        if not self.process.running():
            raise RuntimeError("postfix: " + self.process.output())

    def log(self):
        return self.maillog.read_text() if self.maillog.exists() else ""

    def mails(self):
        """The messages it has delivered, as bytes; `Delivered-To:` tells to whom."""
        folder = self.directory / "varlib/mail/all/new"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []

    def stop(self):
        # What `unshare` started ignores SIGTERM as the first process of its namespace; --kill-child takes all along.
        self.process.stop(grace=0.1)


MAIN_CF = """compatibility_level = 3.6
myhostname = {hostname}
mydomain = postfix.test
# Postfix wants an address it finds on an interface; where it listens is in master.cf.
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
mydestination =
alias_maps =
alias_database =
virtual_mailbox_domains = static:all
virtual_mailbox_base = /var/lib/mail
virtual_mailbox_maps = regexp:/etc/postfix/mailboxes
virtual_minimum_uid = 100
virtual_uid_maps = static:3101
virtual_gid_maps = static:3101
smtpd_peername_lookup = no
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_cert_file = /etc/postfix/{cert}
smtpd_tls_key_file = /etc/postfix/{key}
smtpd_tls_loglevel = 1
smtpd_tls_received_header = yes
smtputf8_enable = yes
maillog_file = /var/log/mail.log
in_flow_delay = 0
"""

MASTER_CF = """{address}:{port} inet n - n - 100 smtpd
cleanup   unix  n  -  n  -     0   cleanup
qmgr      unix  n  -  n  300   1   qmgr
tlsmgr    unix  -  -  n  1000? 1   tlsmgr
rewrite   unix  -  -  n  -     -   trivial-rewrite
bounce    unix  -  -  n  -     0   bounce
defer     unix  -  -  n  -     0   bounce
trace     unix  -  -  n  -     0   bounce
proxymap  unix  -  -  n  -     -   proxymap
virtual   unix  -  n  n  -     -   virtual
smtp      unix  -  -  n  -     -   smtp
error     unix  -  -  n  -     -   error
retry     unix  -  -  n  -     -   error
discard   unix  -  -  n  -     -   discard
anvil     unix  -  -  n  -     1   anvil
postlog   unix-dgram n - n -   1   postlogd
"""

# What the package's postinst would do, then the master in the foreground.
START_POSTFIX = """
cp /usr/share/postfix/dynamicmaps.cf /etc/postfix/
chown root /var/spool/postfix
chown postfix /var/lib/postfix
postfix set-permissions >/dev/null 2>&1 || true
postfix check
exec /usr/lib/postfix/sbin/master -s
"""


class Exim:
    """Exim as a receiving server that takes everything at first; `routers`, `transports` and `retry` are sections of its
    configuration."""

    def __init__(self, directory, address, port, routers, transports, retry=""):
        self.directory, self.address, self.port = directory, address, port
        etc = directory / "etc" / "exim4"
        etc.mkdir(parents=True)
        for each in ("log/exim4", "spool/exim4", "run/exim4", "varlib/mail"):
            (directory / each).mkdir(parents=True)
            os.chown(directory / each, 3105, 3105)
        (etc / "exim4.conf").write_text(EXIM_CONF.format(
            address=address, port=port, routers=routers, transports=transports, retry=retry))
        start = "exec exim4 -bdf -q1s -oP /run/exim4/exim.pid"
        self.process = Process([HERE / "in-root", EXIM_ROOT, directory, "bash", "-euc", start], directory / "exim.log")
        wait_until(lambda: listens(address, port) or not self.process.running(), what="exim")
        if not self.process.running():
            raise RuntimeError("exim: " + self.process.output())

    def log(self):
        return "".join(path.read_text(errors="replace") for path in sorted((self.directory / "log/exim4").iterdir()))

    def stop(self):
        self.process.stop(grace=0.1)


EXIM_CONF = """primary_hostname = mx.exim.test
daemon_smtp_ports = {port}
local_interfaces = <; {address}
acl_smtp_rcpt = accept
acl_smtp_data = accept
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
never_users =
exim_user = Debian-exim
exim_group = Debian-exim
disable_ipv6 = true
begin routers
{routers}
begin transports
{transports}
begin retry
{retry}
"""

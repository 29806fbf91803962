"""A machine with systemd on it, installed as the README says; see `boot`."""

import pathlib
import subprocess

from peers import HERE, ROOT, Process, wait_until
from posthaste import BINARY

REPOSITORY = HERE.parent.parent
UNIT = "posthaste.service"
INSTALL = """
useradd --system --home /var/lib/posthaste --shell /usr/sbin/nologin posthaste
install -d -o posthaste -g posthaste -m 700 /var/lib/posthaste
install -d /etc/posthaste
install -m 644 /work/posthaste.service /etc/systemd/system/
ln -s /work/posthaste.toml /etc/posthaste/posthaste.toml
"""


class Machine:
    """`directory` is its /work, and the daemon's configuration /work/posthaste.toml."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        unit = (REPOSITORY / "systemd" / UNIT).read_text()
        (self.directory / UNIT).write_text(unit)
        # The unit's user reads its configuration through here.
        for folder in [self.directory, *self.directory.parents]:
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
                folder.chmod(folder.stat().st_mode | 0o011)
        command = [HERE / "boot", ROOT.parent / "systemd", self.directory, BINARY]
        self.process = Process(command, self.directory / "boot.log")
        wait_until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"
                   or not self.process.running(), what="systemd")
        assert self.process.running(), self.process.output()
        self.run("sh", "-euc", INSTALL)
        self.run("systemctl", "daemon-reload")

    def first(self):
        """The process id of systemd, or `None` while there is none."""
        children = pathlib.Path(f"/proc/{self.process.child.pid}/task/{self.process.child.pid}/children").read_text()
        return children.split()[0] if children else None

    def run(self, *words, check=True):
        """Runs a command on the machine to its end."""
        first = self.first()
        into = ["nsenter", "-t", first or "0", "-m", "-p", "-C", "-u", f"--root=/proc/{first}/root", "--wd=/"]
        done = subprocess.run([*into, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done

    def systemctl(self, verb, check=True):
        return self.run("systemctl", verb, UNIT, check=check)

    def drop_in(self, text):
        """Lays these lines over the unit, as `systemctl edit` does."""
        script = f"mkdir -p /etc/systemd/system/{UNIT}.d; printf '%s' \"$0\" >/etc/systemd/system/{UNIT}.d/test.conf"
        self.run("sh", "-euc", script, text)
        self.run("systemctl", "daemon-reload")

    def show(self, name):
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()

    def journal(self):
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT, check=False).stdout

    def stop(self):
        # It ignores SIGTERM, being the first process of its namespace; --kill-child takes all along.
        self.process.stop(grace=0.1)

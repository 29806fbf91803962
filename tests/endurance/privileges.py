"""What a machine must allow, and how to tell that it does not: each is tried in the plainest way, with none of the code that the
tests use. So a test that is skipped for want of something that works here is a failure (ENDURANCE_STRICT)."""

import contextlib
import functools
import os
import pathlib
import subprocess
import tempfile

import pytest

# Around what is tried: a small file system, mounted on $M from $D.
MOUNTED = """
set -e
truncate -s 16M "$T/image"
mkfs.ext4 -q -F "$T/image"
M=$T/mounted
mkdir "$M"
D=$(losetup --find --show "$T/image")
trap 'losetup --detach "$D"' EXIT
mount -t ext4 -o errors=continue "$D" "$M"
trap 'umount "$M"; losetup --detach "$D"' EXIT
"""
SHUTDOWN = "import array, fcntl, os; fcntl.ioctl(os.open('$M', os.O_RDONLY), 0x8004587D, array.array('I', [2]), False)"
PRIVILEGES = {
    "root": "test $(id -u) = 0",
    "mount": MOUNTED,
    "freeze": MOUNTED + 'fsfreeze --freeze "$M"; fsfreeze --unfreeze "$M"',
    "shutdown": MOUNTED + f'python3 -c "{SHUTDOWN}"',
    "fs-error": MOUNTED + 'echo probe > "/sys/fs/ext4/${D##*/}/trigger_fs_error"',
    "cgroup": 'test -e /sys/fs/cgroup/memory/memory.limit_in_bytes || grep -qw memory /sys/fs/cgroup/cgroup.subtree_control; '
              'G=$(ls -d /sys/fs/cgroup/memory 2>/dev/null || echo /sys/fs/cgroup)/endurance-probe-$$; mkdir "$G" && rmdir "$G"',
    "seccomp": f'DISK_FAULT=none LD_PRELOAD={os.environ["ENDURANCE_TOOLS"]}/faults.so true',
}


class Lacking(pytest.skip.Exception):
    """A skip for want of one of these."""

    def __init__(self, privilege, why):
        super().__init__(f"not possible on this machine: {privilege}: {why}")
        self.privilege = privilege


def lacking(privilege, why):
    assert privilege in PRIVILEGES
    raise Lacking(privilege, why)


@functools.cache
def refused(privilege):
    """What this machine says to the plain try; empty if that works."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as place:
        done = subprocess.run(["bash", "-c", PRIVILEGES[privilege]], env={**os.environ, "T": place}, timeout=60,
                              capture_output=True, text=True)
        with contextlib.suppress(OSError):
            os.rmdir(pathlib.Path(place) / "mounted")
    return (done.stdout + done.stderr).strip() or f"exit code {done.returncode}" if done.returncode else ""

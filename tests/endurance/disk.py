"""File systems of our own that can be filled, frozen, cut off and cut short. All of it needs root."""

import array
import fcntl
import os
import pathlib
import re
import shutil
import subprocess

from privileges import lacking

# <linux/ext4.h>: _IOR('X', 125, __u32), and not even the journal is written.
EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
# <linux/loop.h>, struct loop_info64.
LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_INFO_LEN, LOOP_SIZELIMIT = 0x4C04, 0x4C05, 232, 32


def sh(*words, check=True):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done


def or_skip(privilege, *words):
    """A step that some kernels and containers do not allow."""
    try:
        return sh(*words).stdout
    except (RuntimeError, FileNotFoundError) as error:
        lacking(privilege, error)


class Disk:
    """ext4 on a loop device."""

    def __init__(self, directory, size="256M", features=(), errors="continue"):
        if os.geteuid() != 0:
            lacking("root", "loop devices and mounts need it")
        self.directory, self.errors = pathlib.Path(directory), errors
        self.mounted, self.device = False, None
        self.path = self.directory / "mounted"
        self.path.mkdir(parents=True)
        self.image = self.directory / "image"
        try:
            sh("truncate", "-s", size, self.image)
            sh("mkfs.ext4", "-q", "-F", *features, self.image)
            self.attach()
        except BaseException:
            self.remove()
            raise

    def attach(self):
        self.device = or_skip("mount", "losetup", "--find", "--show", self.image).strip()
        or_skip("mount", "mount", "-t", "ext4", "-o", f"errors={self.errors}", self.device, self.path)
        self.mounted = True
        # While it is mounted this only says that it ends with the mount, however that ends.
        sh("losetup", "--detach", self.device)

    def detach(self):
        """Takes it out; its device goes with it."""
        if self.mounted:
            sh("umount", self.path)
            # Its number may be another's by now.
            self.mounted, self.device = False, None

    def again(self):
        """Takes it out and puts it in again: nothing that was only in memory survives."""
        self.detach()
        self.attach()

    def limit(self, octets):
        """Lets nothing behind these octets be read or written: EIO. 0 takes the limit away."""
        with open(self.device, "rb") as device:
            info = bytearray(LOOP_INFO_LEN)
            fcntl.ioctl(device, LOOP_GET_STATUS64, info)
            info[LOOP_SIZELIMIT:LOOP_SIZELIMIT + 8] = octets.to_bytes(8, "little")
            fcntl.ioctl(device, LOOP_SET_STATUS64, bytes(info))

    def trigger_error(self):
        """Has the file system find an error."""
        trigger = pathlib.Path("/sys/fs/ext4") / pathlib.Path(self.device).name / "trigger_fs_error"
        try:
            trigger.write_text("endurance test")
        except OSError as error:
            lacking("fs-error", error)

    def freeze(self):
        or_skip("freeze", "fsfreeze", "--freeze", self.path)

    def thaw(self):
        sh("fsfreeze", "--unfreeze", self.path)

    def cut(self):
        """The power goes: what was not synced is gone."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, array.array("I", [NOLOGFLUSH]), False)
        except OSError as error:
            lacking("shutdown", error)
        finally:
            os.close(folder)

    def copy(self, name):
        """What a power cut at this instant would leave, as a disk of its own."""
        return Copy(self.directory / name, self.image)

    def fill(self, keep=0):
        """Takes all space but `keep` octets with a file of our own; returns it."""
        filler = self.path / "filler"
        free = shutil.disk_usage(self.path).free - keep
        if free > 0:
            sh("fallocate", "-l", free, filler)
        return filler

    def occupy_front(self, octets):
        """Takes all space in front of that place, so that every file to come lies behind it."""
        pieces = []
        while not pieces or not sh("fallocate", "-l", "1M", pieces[-1], check=False).returncode:
            pieces.append(self.path / f"ballast{len(pieces)}")
        for piece in pieces:
            extents = re.findall(r"^ *\d+: +\d+\.\. *\d+: +(\d+)\.\.", sh("filefrag", "-v", piece, check=False).stdout, re.M)
            if not extents or min(map(int, extents)) * 4096 >= octets:
                piece.unlink(missing_ok=True)

    def remove(self):
        if self.mounted:
            sh("fsfreeze", "--unfreeze", self.path, check=False)
            if sh("umount", self.path, check=False).returncode:
                # A daemon that hangs must not keep it.
                sh("umount", "--lazy", self.path, check=False)
        elif self.device:
            sh("losetup", "--detach", self.device, check=False)
        self.image.unlink(missing_ok=True)


class Copy(Disk):
    """A disk whose image is a copy of another's, taken while that is written to."""

    def __init__(self, directory, image):
        self.directory, self.errors = directory, "continue"
        self.mounted, self.device = False, None
        self.path, self.image = directory / "mounted", directory / "image"
        self.path.mkdir(parents=True)
        try:
            sh("cp", "--sparse=always", image, self.image)
        except BaseException:
            self.remove()
            raise

"""What the kernel counts: CPU time, memory, disk; and the network namespace."""
import fcntl
import os
import signal
import socket
import struct
import time

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41


def bring_loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))


def cpu_of_all():
    """Seconds that all CPUs were busy, and that the hypervisor took, since boot."""
    with open("/proc/stat") as stat:
        field = [int(word) / TICK for word in stat.readline().split()[1:]]
    return sum(field[0:3]) + sum(field[5:7]), field[7]


def cpu_of(pid):
    """CPU seconds of one process, its threads included."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            field = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(field[11]) + int(field[12])) / TICK


class Group:
    """A cgroup (v2) that holds one mail server: its CPU time, its processes, their memory."""

    def __init__(self):
        with open("/proc/mounts") as mounts:
            roots = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
        if not roots:
            raise RuntimeError("no cgroup2 file system is mounted; CPU time cannot be counted")
        self.path = os.path.join(roots[0], f"relay-bench-{os.getpid()}")
        os.makedirs(self.path, exist_ok=True)
        self.peak_rss = self.peak_pss = self.peak_processes = 0

    def join(self):
        """Puts the calling process, about to become the server, inside."""
        with open(os.path.join(self.path, "cgroup.procs"), "w") as procs:
            procs.write("0")

    def pids(self):
        try:
            with open(os.path.join(self.path, "cgroup.procs")) as procs:
                return [int(pid) for pid in procs.read().split()]
        except OSError:
            return []

    def cpu(self):
        """User and system seconds, of ended processes too."""
        with open(os.path.join(self.path, "cpu.stat")) as stat:
            field = dict(line.split() for line in stat)
        return int(field["user_usec"]) / 1e6, int(field["system_usec"]) / 1e6

    def pss(self):
        """Proportional set size of all processes now, in octets: shared pages are counted once."""
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    total += next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
            except (OSError, StopIteration):
                pass
        return total

    def sample(self, pss):
        """Keeps the peaks. PSS is asked for seldom, since it walks the page tables."""
        rss = processes = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/statm") as statm:
                    rss += int(statm.read().split()[1]) * PAGE
                processes += 1
            except (OSError, IndexError):
                pass
        self.peak_rss = max(self.peak_rss, rss)
        self.peak_processes = max(self.peak_processes, processes)
        if pss:
            self.peak_pss = max(self.peak_pss, self.pss())

    def end(self, patience=5):
        """SIGTERM to every process of the group, SIGKILL to those left after `patience` s. Returns the time it took."""
        start = time.monotonic()
        for sign, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10)):
            for pid in self.pids():
                try:
                    os.kill(pid, sign)
                except OSError:
                    pass
            until = time.monotonic() + wait
            while self.pids() and time.monotonic() < until:
                time.sleep(0.01)
        return time.monotonic() - start

    def remove(self):
        self.end()
        try:
            os.rmdir(self.path)
        except OSError:
            pass


def file_system(path):
    """Kind and device of the file system that holds `path`."""
    path = os.path.realpath(path)
    with open("/proc/mounts") as mounts:
        entries = [line.split() for line in mounts]
    fitting = [entry for entry in entries if path == entry[1] or path.startswith(entry[1].rstrip("/") + "/")]
    best = max(fitting, key=lambda entry: len(entry[1]))
    return f"{best[2]} on {best[0]}"


class Disk:
    """Counters of the block device under a folder, all its writers together."""

    def __init__(self, folder):
        device = os.stat(folder).st_dev
        self.stat = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"

    def read(self):
        """Kilobytes written and flushes so far; zeros where there is no such device (tmpfs)."""
        try:
            with open(self.stat) as stat:
                field = [int(word) for word in stat.read().split()]
        except OSError:
            return 0.0, 0
        return field[6] * 512 / 1e3, field[15] if len(field) > 15 else 0


def wait_for_quiet(share, patience):
    """Waits until all else on the machine uses less than `share` of the CPU, `patience` s at most."""
    until = time.monotonic() + patience
    while True:
        busy, start = cpu_of_all()[0], time.monotonic()
        time.sleep(1)
        use = (cpu_of_all()[0] - busy) / (time.monotonic() - start) / os.cpu_count()
        if use < share or time.monotonic() > until:
            return

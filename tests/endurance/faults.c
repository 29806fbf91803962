/* Between the daemon and its disk, by LD_PRELOAD: system calls that write and sync come here (seccomp(2), so also those that are
   made without the C library), and do as the file named by DISK_FAULT says:

     delay MILLISECONDS    each sync waits first
     error sync            each sync fails with EIO, and nothing is synced
     error write PART      each write to a regular file whose path contains PART fails with EIO, and nothing is written
     read-only PART        such files can be neither written, synced, nor opened or made for writing: EROFS

   Anything else, or no file: as ever. A process that cannot be arranged so ends with exit code 70. It must not run another
   program: that one would find calls sent to where nobody is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* The only place that may make such calls; who calls is known by the address behind the instruction. */
long faults_pass(long number, long a, long b, long c, long d, long e, long f);
extern char faults_passed[];
#if defined __x86_64__
__asm__(".text\n.global faults_pass\nfaults_pass:\n mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n"
        " mov %r8, %r10\n mov %r9, %r8\n mov 8(%rsp), %r9\n syscall\n.global faults_passed\nfaults_passed:\n ret\n");
#define ARCH AUDIT_ARCH_X86_64
#define REGISTER(context, n) (context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9}[n]]
#define RESULT(context) (context)->uc_mcontext.gregs[REG_RAX]
#elif defined __aarch64__
__asm__(".text\n.global faults_pass\nfaults_pass:\n mov x8, x0\n mov x0, x1\n mov x1, x2\n mov x2, x3\n mov x3, x4\n"
        " mov x4, x5\n mov x5, x6\n svc #0\n.global faults_passed\nfaults_passed:\n ret\n");
#define ARCH AUDIT_ARCH_AARCH64
#define REGISTER(context, n) (context)->uc_mcontext.regs[n]
#define RESULT(context) (context)->uc_mcontext.regs[0]
#endif

static const int syncs[] = {SYS_fdatasync, SYS_fsync, SYS_sync_file_range, SYS_msync, SYS_syncfs};
static const int writes[] = {SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_fallocate};
static const int opens[] = {SYS_openat};
#define COUNT(list) (sizeof(list) / sizeof *(list))

static int is_sync(int number) {
  for (size_t n = 0; n < COUNT(syncs); n++)
    if (syncs[n] == number) return 1;
  return 0;
}

/* What becomes of a file that is opened when those with `part` in their path are read-only. */
static int opened(const char *path, long flags, const char *part) {
  return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) && strstr(path, part) ? EROFS : 0;
}

/* Whether the file is a regular one with such a path. */
static int is_meant(int fd, const char *part) {
  char link[32], path[4096];
  struct stat about;
  ssize_t length;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (fstat(fd, &about) || !S_ISREG(about.st_mode) || (length = readlink(link, path, sizeof path - 1)) < 0) return 0;
  path[length] = 0;
  return strstr(path, part) != NULL;
}

static void trapped(int signal, siginfo_t *about, void *where) {
  ucontext_t *context = where;
  int number = about->si_syscall, before = errno, fails = 0;
  int file = (int)faults_pass(SYS_openat, AT_FDCWD, (long)getenv("DISK_FAULT"), O_RDONLY | O_CLOEXEC, 0, 0, 0);
  char order[256] = "";
  (void)signal;
  if (file >= 0) {
    ssize_t length = read(file, order, sizeof order - 1);
    close(file);
    order[length > 0 ? length : 0] = 0;
    order[strcspn(order, "\n")] = 0;
  }
  if (strncmp(order, "read-only ", 10) == 0) {
    if (number == SYS_openat)
      fails = opened((const char *)REGISTER(context, 1), REGISTER(context, 2), order + 10);
    else if (is_meant((int)REGISTER(context, 0), order + 10))
      fails = EROFS;
  } else if (number == SYS_openat) {
    fails = 0;
  } else if (is_sync(number)) {
    if (strncmp(order, "delay ", 6) == 0) {
      long milliseconds = atol(order + 6);
      struct timespec wait = {milliseconds / 1000, milliseconds % 1000 * 1000000};
      nanosleep(&wait, NULL);
    }
    fails = strcmp(order, "error sync") == 0 ? EIO : 0;
  } else if (strncmp(order, "error write ", 12) == 0) {
    fails = is_meant((int)REGISTER(context, 0), order + 12) ? EIO : 0;
  }
  RESULT(context) = fails ? -fails
                          : faults_pass(number, REGISTER(context, 0), REGISTER(context, 1), REGISTER(context, 2),
                                        REGISTER(context, 3), REGISTER(context, 4), REGISTER(context, 5));
  errno = before;
}

__attribute__((constructor)) static void arrange(void) {
  struct sock_filter filter[32];
  struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_RESTART};
  uint64_t ours = (uintptr_t)faults_passed;
  size_t n = 0, calls = COUNT(syncs) + COUNT(writes) + COUNT(opens);
  if (!getenv("DISK_FAULT")) return;
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (field))
#define IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define DO(action) BPF_STMT(BPF_RET | BPF_K, (action))
  struct sock_filter begin[] = {LOAD(offsetof(struct seccomp_data, arch)), IS(ARCH, 1, 0), DO(SECCOMP_RET_ALLOW),
                                LOAD(offsetof(struct seccomp_data, nr))};
  struct sock_filter end[] = {DO(SECCOMP_RET_ALLOW),
                              LOAD(offsetof(struct seccomp_data, instruction_pointer)), IS((uint32_t)ours, 0, 3),
                              LOAD(offsetof(struct seccomp_data, instruction_pointer) + 4), IS((uint32_t)(ours >> 32), 0, 1),
                              DO(SECCOMP_RET_ALLOW), DO(SECCOMP_RET_TRAP)};
  memcpy(filter, begin, sizeof begin);
  n = COUNT(begin);
  for (size_t call = 0; call < calls; call++, n++) {
    int number = call < COUNT(syncs)                   ? syncs[call]
                 : call < COUNT(syncs) + COUNT(writes) ? writes[call - COUNT(syncs)]
                                                       : opens[call - COUNT(syncs) - COUNT(writes)];
    /* Over the rest of the list and the first of `end`. */
    filter[n] = (struct sock_filter)IS(number, calls - call, 0);
  }
  memcpy(filter + n, end, sizeof end);
  n += COUNT(end);
  struct sock_fprog program = {.len = n, .filter = filter};
  if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) {
    perror("faults: seccomp");
    _exit(70);
  }
}

/* Between the daemon and fdatasync(2), by LD_PRELOAD. The file named by SYNC_FAULT says what happens to each call:
   "delay MILLISECONDS" waits first, "error" fails with EIO without syncing; anything else, or no file: nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int fdatasync(int fd) {
  static int (*real)(int);
  char order[64] = "";
  long milliseconds;
  const char *name = getenv("SYNC_FAULT");
  FILE *file = name ? fopen(name, "re") : NULL;

  if (file) {
    if (!fgets(order, sizeof order, file)) order[0] = 0;
    fclose(file);
  }
  if (sscanf(order, "delay %ld", &milliseconds) == 1) {
    struct timespec wait = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&wait, NULL);
  }
  if (strncmp(order, "error", 5) == 0) {
    errno = EIO;
    return -1;
  }
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  return real(fd);
}

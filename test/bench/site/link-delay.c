// A link between two network namespaces that takes time and may lose frames, for kernels built without netem.
// Opens a TAP device in each; what one of them sends leaves the other a fixed time later, in order. The rate isn't
// limited here: that's for a queue discipline on the devices.
//
//   link-delay NAMESPACE-A DEVICE-A NAMESPACE-B DEVICE-B DELAY-US LOST-PER-10000
//
// Writes a line once both devices are there. Ends with the process that started it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_FRAME_BYTES 2048
#define MAX_FRAMES 8192 /* 12 MB of full frames: seconds of a thin WAN */
#define NS_A_SECOND 1000000000LL

struct frame { long long due_ns; int bytes; char data[MAX_FRAME_BYTES]; };
struct way { int from, to; unsigned first, end; struct frame *frames; };

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * NS_A_SECOND + now.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int open_tap(const char *space, const char *device) {
  char path[256];
  snprintf(path, sizeof path, "/var/run/netns/%s", space);
  int at = open(path, O_RDONLY | O_CLOEXEC);
  if (at < 0 || setns(at, CLONE_NEWNET) < 0) die(path);
  close(at);
  int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) die("/dev/net/tun");
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &request) < 0) die(device);
  return tap;
}

static void take_in(struct way *way, long long delay_ns, int lost_per_10000) {
  char spare[MAX_FRAME_BYTES];
  for (;;) {
    int is_full = way->end - way->first == MAX_FRAMES;
    struct frame *frame = &way->frames[way->end % MAX_FRAMES];
    int bytes = read(way->from, is_full ? spare : frame->data, MAX_FRAME_BYTES);
    if (bytes <= 0) return;
    if (is_full || random() % 10000 < lost_per_10000) continue;
    frame->bytes = bytes;
    frame->due_ns = now_ns() + delay_ns;
    way->end++;
  }
}

static void let_out(struct way *way) {
  while (way->first != way->end) {
    struct frame *frame = &way->frames[way->first % MAX_FRAMES];
    if (frame->due_ns > now_ns()) return;
    /* A device whose queue is full loses the frame, as a real one does. */
    if (write(way->to, frame->data, frame->bytes) < 0 && errno != EAGAIN && errno != EIO) die("write");
    way->first++;
  }
}

int main(int count, char **args) {
  if (count != 7) {
    fprintf(stderr, "usage: link-delay NS-A DEV-A NS-B DEV-B DELAY-US LOST-PER-10000\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_TIMERSLACK, 1000UL);
  setpriority(PRIO_PROCESS, 0, -15);
  srandom(1);
  int a = open_tap(args[1], args[2]), b = open_tap(args[3], args[4]);
  long long delay_ns = atoll(args[5]) * 1000;
  int lost_per_10000 = atoi(args[6]);
  struct way ways[2] = {{a, b, 0, 0, calloc(MAX_FRAMES, sizeof(struct frame))},
                        {b, a, 0, 0, calloc(MAX_FRAMES, sizeof(struct frame))}};
  if (!ways[0].frames || !ways[1].frames) die("calloc");
  puts("ready");
  fflush(stdout);
  for (;;) {
    long long next_ns = now_ns() + NS_A_SECOND;
    for (int i = 0; i < 2; i++) {
      if (ways[i].first == ways[i].end) continue;
      long long due_ns = ways[i].frames[ways[i].first % MAX_FRAMES].due_ns;
      if (due_ns < next_ns) next_ns = due_ns;
    }
    long long wait_ns = next_ns - now_ns();
    if (wait_ns < 0) wait_ns = 0;
    struct timespec wait = {wait_ns / NS_A_SECOND, wait_ns % NS_A_SECOND};
    struct pollfd both[2] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
    ppoll(both, 2, &wait, NULL);
    for (int i = 0; i < 2; i++) {
      take_in(&ways[i], delay_ns, lost_per_10000);
      let_out(&ways[i]);
    }
  }
}

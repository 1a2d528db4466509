/** Peak resident memory, in bytes, out of a `/proc/PID/status`. resourceUsage().maxRSS begins with the parent's value. */
export function peakRssOf(status: string): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

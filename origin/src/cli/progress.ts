import { type Options, SingleBar } from 'cli-progress';
import { formatBytes, note } from './output.ts';

const PLAIN_LINE_EVERY_MS = 10_000;

/** How far an upload has got, in bytes of the image and bytes on the wire. */
interface UploadProgress {
  readBytes: number;
  totalBytes: number;
  sentBytes: number;
}

export interface ProgressDisplay {
  update(progress: UploadProgress): void;
  stop(): void;
}

/** A bar with rate and time left where a person watches, a line every ten seconds where a log does. */
export function uploadProgress(title: string, quiet: boolean): ProgressDisplay {
  if (quiet) return { update: () => {}, stop: () => {} };
  return process.stderr.isTTY ? barProgress(title) : lineProgress(title);
}

function barProgress(title: string): ProgressDisplay {
  const options: Options = {
    format: `${title} [{bar}] {percentage}% | {read} of {size} | {rate}/s | {eta_formatted} left | {sent} sent`,
    hideCursor: true,
    etaBuffer: 100,
    fps: 8,
    stream: process.stderr,
  };
  const bar = new SingleBar(options);
  const startedMs = performance.now();
  let started = false;
  return {
    update: ({ readBytes, totalBytes, sentBytes }) => {
      const seconds = (performance.now() - startedMs) / 1000;
      const shown = {
        read: formatBytes(readBytes),
        size: formatBytes(totalBytes),
        sent: formatBytes(sentBytes),
        rate: formatBytes(Math.round(readBytes / Math.max(seconds, 0.001))),
      };
      if (!started) bar.start(totalBytes, readBytes, shown);
      started = true;
      bar.update(readBytes, shown);
    },
    stop: () => {
      if (started) bar.stop();
    },
  };
}

function lineProgress(title: string): ProgressDisplay {
  const startedMs = performance.now();
  let nextMs = startedMs + PLAIN_LINE_EVERY_MS;
  return {
    update: ({ readBytes, totalBytes, sentBytes }) => {
      const nowMs = performance.now();
      if (nowMs < nextMs) return;
      nextMs = nowMs + PLAIN_LINE_EVERY_MS;
      const bytesPerMs = readBytes / (nowMs - startedMs);
      const leftSeconds = Math.ceil((totalBytes - readBytes) / Math.max(bytesPerMs, 1) / 1000);
      note(
        `${title}: ${formatBytes(readBytes)} of ${formatBytes(totalBytes)}, ${formatBytes(Math.round(bytesPerMs * 1000))}/s, ` +
          `${leftSeconds} s left, ${formatBytes(sentBytes)} sent`,
      );
    },
    stop: () => {},
  };
}

import { nextMessage, startScript } from './process.ts';

/** What the sender reports. */
export interface Upload {
  /** Until all chunks were stored, from when the sender had loaded. */
  readonly sentMs: number;
  /** Until they were synced. */
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakRssBytes: number;
  readonly receiver: { readonly cpuMs: number };
}

/** Sends an image from one new process to another one. @returns figures; `processMs` has the sender's start in it */
export async function upload(image: string, storeRoot: string): Promise<Upload & { processMs: number }> {
  const receiver = startScript('upload-receiver', storeRoot);
  try {
    const { port } = await nextMessage<{ port: number }>(receiver);
    const startedAt = performance.now();
    const sender = startScript('upload-sender', String(port), image);
    const figures = await nextMessage<Upload>(sender);
    return { ...figures, processMs: performance.now() - startedAt };
  } finally {
    receiver.disconnect();
  }
}

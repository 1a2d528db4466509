import { nextMessage, startScript } from './process.ts';

/** The sender's figures. */
export interface Upload {
  /** From when the sender was loaded until all chunks were stored. */
  readonly sentMs: number;
  /** The same, until they were synced. */
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly peakRssBytes: number;
  readonly receiver: { readonly cpuMs: number };
}

/** Sends an image from one new process to another. @returns figures; `processMs` includes the sender's start */
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

/** Payload of a full TCP segment with timestamps, and its length on an Ethernet. */
const SEGMENT_BYTES = 1448;
export const FRAME_BYTES = 1514;

/** How long one copy takes over a link of this rate, headers included. */
export function limitMs(imageBytes: number, mbit: number): number {
  return (imageBytes * (FRAME_BYTES / SEGMENT_BYTES) * 8) / (mbit * 1000);
}

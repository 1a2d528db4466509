// For tests only: images of chunks of equal lengths, and devices that say what they run.
import { createHash } from 'node:crypto';
import { chunkPath } from '@sitecast/shared/content';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import { expect } from 'vitest';
import { TestDevice, type TestGateway } from './harness.ts';

export const CHUNK_BYTES = 16_384;
export const pathOf = (id: Uint8Array): string => `chunks/${chunkPath(id)}`;

/** Incompressible bytes, the same for the same seed. */
export function noise(chunks: number, seed: number, chunkBytes = CHUNK_BYTES): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at * 32 < chunks * chunkBytes; at += 1)
    parts.push(createHash('sha256').update(`${seed} ${at}`).digest());
  return Buffer.concat(parts).subarray(0, chunks * chunkBytes);
}

export const timesAsked = (origin: FakeOrigin, ids: readonly Uint8Array[]): number[] =>
  ids.map(id => origin.count(`GET /${pathOf(id)}`));

/**
 * A camera at Lisbon that says which release it runs.
 * @param deltas what the device says that it can do with them; undefined: nothing
 * @param takesSiteWay it leaves them alone where the gateway says so
 */
export async function enrolRunning(
  gateway: TestGateway,
  counter: number,
  deltas: string | undefined = 'recipe-1',
  { takesSiteWay = false } = {},
): Promise<void> {
  const device = new TestDevice();
  await device.post(`${gateway.url}/site/v1/enrolments`, { envelope: await device.enrolment() });
  const report = await device.report({
    booted: { slot: 'A', release: { counter, version: `${counter}.0.0` } },
    inventory: {
      product: 'camera',
      ...(deltas !== undefined && { deltas }),
      ...(takesSiteWay && { takesSiteWay }),
    },
  });
  const answer = await device.post(`${gateway.url}/site/v1/reports`, { reports: [report] });
  expect(answer.status).toBe(202);
}

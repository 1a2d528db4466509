import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestOperator } from './operator.ts';
import { openTestOrigin, type TestOrigin, type TestOriginOptions } from './origin.ts';

/** A clock that a test moves. */
export class TestClock {
  nowMs = Date.parse('2030-01-01T00:00:00Z');
  readonly now = (): number => this.nowMs;

  passHours(hours: number): void {
    this.nowMs += hours * 3_600_000;
  }

  passDays(days: number): void {
    this.passHours(days * 24);
  }
}

/** A temporary directory and the function that removes it. */
export function temporaryDirectory(): { path: string; remove: () => Promise<void> } {
  const path = mkdtempSync(join(tmpdir(), 'sitecast-origin-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** An origin with an initialised repository, and its operator. */
export async function initialisedOrigin(
  options: Omit<TestOriginOptions, 'now'> & { clock?: TestClock },
): Promise<TestOrigin & { operator: TestOperator; clock: TestClock }> {
  const clock = options.clock ?? new TestClock();
  const origin = await openTestOrigin({ ...options, now: clock.now });
  const operator = new TestOperator(
    (path, init) => origin.app.request(path, init),
    origin.adminToken,
    clock.now,
  );
  const answer = await operator.initialise();
  if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
  return { ...origin, operator, clock };
}

/** New random chunks. */
export function randomChunks(count: number, lengthBytes = 1000): Buffer[] {
  return Array.from({ length: count }, () => randomBytes(lengthBytes));
}

/** `initialisedOrigin` on a temporary directory. */
export async function temporaryOrigin(
  disks: (path: string) => Pick<TestOriginOptions, 'openData' | 'store'>,
  clock = new TestClock(),
) {
  const directory = temporaryDirectory();
  const origin = await initialisedOrigin({ ...disks(directory.path), clock });
  return { ...origin, path: directory.path, remove: directory.remove };
}

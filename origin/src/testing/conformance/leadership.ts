import assert from 'node:assert/strict';
import { SitecastError } from '@sitecast/shared/errors';
import type { Leadership } from '../../leadership.ts';
import type { Test } from './test.ts';

/**
 * The conformance suite of `Leadership`.
 * @param open returns a function with which origins that share their data request it, and one that removes that data
 */
export function testLeadership(
  test: Test,
  open: () => Promise<{ acquire: () => Promise<Leadership>; close: () => Promise<void> }>,
): void {
  test('is one origin’s at a time, and another one’s after it is released', async () => {
    const { acquire, close } = await open();
    const first = await acquire();
    assert.equal(first.isHeld, true);
    await assert.rejects(
      acquire(),
      error => error instanceof SitecastError && error.code === 'SITECAST_DATA_IN_USE',
    );
    await first.release();
    assert.equal(first.isHeld, false);
    const second = await acquire();
    // The release has no effect on the present leader.
    await first.release();
    assert.equal(second.isHeld, true);
    await second.release();
    await close();
  });
}

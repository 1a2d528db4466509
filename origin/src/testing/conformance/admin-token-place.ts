import assert from 'node:assert/strict';
import type { AdminTokenPlace } from '../../tokens/token-store.ts';
import type { Test } from './test.ts';

/** Two instances of one place, as origins that share their data open them. */
export interface AdminTokenPlacesUnderTest {
  one: AdminTokenPlace;
  other: AdminTokenPlace;
  /** What the operator finds where `keep` says. */
  find: (where: string) => Promise<string>;
  close: () => Promise<void>;
}

/** What every `AdminTokenPlace` keeps to, as tests. */
export function testAdminTokenPlace(test: Test, open: () => Promise<AdminTokenPlacesUnderTest>): void {
  test('keeps the newest token, in one place for all origins', async () => {
    const { one, other, find, close } = await open();
    const where = await one.keep('first');
    assert.equal((await find(where)).trim(), 'first');
    assert.equal(await other.keep('second'), where);
    assert.equal((await find(where)).trim(), 'second');
    await close();
  });

  test('holds one whole token after two origins have kept theirs at once', async () => {
    const { one, other, find, close } = await open();
    const [where] = await Promise.all([one.keep('first'), other.keep('second')]);
    assert.match(await find(where), /^(first|second)\s*$/);
    await close();
  });
}

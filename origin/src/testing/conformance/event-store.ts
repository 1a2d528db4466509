import assert from 'node:assert/strict';
import type { EventStore } from '../../events/events.ts';
import type { Test } from './test.ts';

const emitted = (at: number) => ({ type: 'device.outcome', device: `device ${at}`, data: { at } });

/**
 * The conformance suite of `EventStore`.
 * @param open opens an empty store: two instances of it, where an adapter has more than one
 */
export function testEventStore(
  test: Test,
  open: () => { one: EventStore; other: EventStore; maxKept: number },
): void {
  test('gives each event the next number, and tells whoever listens', async () => {
    const { one, other } = open();
    let told = 0;
    const stop = one.onEvent(() => {
      told += 1;
    });
    for (let at = 1; at <= 4; at += 1) (at % 2 === 0 ? one : other).emit(emitted(at));
    assert.equal(told, 4);
    stop();
    one.emit(emitted(5));
    assert.equal(told, 4);
    for (const { newest, after } of [one, other].map(store => ({
      newest: store.newest,
      after: store.after(2, 2),
    }))) {
      assert.equal(newest, 5);
      assert.deepEqual(
        after?.map(({ seq, text }) => [seq, Object(JSON.parse(text)).device]),
        [
          [3, 'device 3'],
          [4, 'device 4'],
        ],
      );
    }
  });

  test('lets a reader go on from an id whose successors are all kept, and from no other', async () => {
    const { one, other, maxKept } = open();
    one.emit(emitted(0));
    const first = one.idOf(1);
    assert.equal(other.resumable(first), 1);
    assert.equal(one.resumable(one.idOf(2)), undefined);
    assert.equal(one.resumable('another-1'), undefined);
    for (let at = 0; at <= maxKept; at += 1) other.emit(emitted(at));
    assert.equal(one.resumable(first), undefined);
    assert.equal(one.after(1, 1), undefined);
    assert.equal(one.after(2, 1)?.[0]?.seq, 3);
  });
}

import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { demandRoom } from '../../room.ts';
import { diskRoom } from './room.ts';

it('asks the file system once for all who ask at the same time', async () => {
  let asked = 0;
  const room = diskRoom('/data', 10, async () => {
    asked += 1;
    return 10;
  });
  await Promise.all(Array.from({ length: 100 }, () => demandRoom(room)));
  // A busy machine may need longer than one answer counts.
  expect(asked).toBeLessThan(10);
});

it('notices a disk that has become full, and one that has room again', async () => {
  let freeBytes = 10;
  const room = diskRoom('/data', 10, async () => freeBytes);
  await demandRoom(room);
  freeBytes = 9;
  await sleep(30);
  await expect(demandRoom(room)).rejects.toMatchObject({ code: 'SITECAST_NO_SPACE' });
  freeBytes = 10;
  await sleep(30);
  await demandRoom(room);
});

it('asks again after a failure', async () => {
  const answers = [Promise.reject(new Error('no such directory')), Promise.resolve(10)];
  const room = diskRoom('/data', 10, () => answers.shift() ?? Promise.resolve(0));
  await expect(room.freeBytes()).rejects.toThrow('no such directory');
  await sleep(30);
  expect(await room.freeBytes()).toBe(10);
});

it("tells a file system's free bytes", async () => {
  expect(await diskRoom(tmpdir(), 0).freeBytes()).toBeGreaterThan(0);
});

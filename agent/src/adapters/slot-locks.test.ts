import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, link, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Log } from '../ports.ts';
import { FileSlot } from './file-slot.ts';
import { SlotLocks } from './slot-locks.ts';

let directory: string;
let a: string;
let b: string;
const logged: string[] = [];
const log: Log = (_level, message) => void logged.push(message);
const open: SlotLocks[] = [];
const children: ChildProcess[] = [];

beforeEach(async () => {
  logged.length = 0;
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slot-locks-'));
  [a, b] = [join(directory, 'a.img'), join(directory, 'b.img')];
  await writeFile(a, 'what runs');
});
afterEach(async () => {
  for (const locks of open.splice(0)) await locks.release();
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(directory, { recursive: true });
});

/** A separate agent with its own opinion about which slot is running. */
function agent(): { locks: SlotLocks; slot: (path: string, other: string) => FileSlot } {
  const locks = new SlotLocks(log);
  open.push(locks);
  return { locks, slot: (path, other) => new FileSlot(path, { other, locks }) };
}

const found = async (path: string) => ({ path, found: await stat(path, { bigint: true }) });
const busy = (path: string) =>
  expect.objectContaining({
    code: 'SITECAST_SLOT_BUSY',
    message: `the slot ${path} is the slot of another sitecast-agent, process ${process.pid}`,
  });

it('gives a slot to one agent, whatever its path, and neither of two where one is taken', async () => {
  const [one, two] = [agent().locks, agent().locks];
  await one.take([await found(a)]);
  await one.take([await found(a)]);
  await link(a, join(directory, 'link'));
  await writeFile(b, '');
  const both = [await found(b), await found(join(directory, 'link'))];
  await expect(two.take(both)).rejects.toEqual(busy(join(directory, 'link')));
  await one.take([await found(b)]);
  await one.release();
  await two.take(both);
});

it('keeps an agent from writing where another has either slot, and from creating a file there', async () => {
  const [one, two] = [agent(), agent()];
  await one.locks.take([await found(a)]);
  // In the second agent's opinion, A is the slot to write.
  await expect(two.slot(a, b).openForWriting()).rejects.toEqual(busy(a));
  await expect(two.slot(b, a).openForWriting()).rejects.toEqual(busy(a));
  expect(await readdir(directory)).toEqual(['a.img']);
  const writer = await one.slot(b, a).openForWriting();
  await writer.close();
  // A new file belongs to the agent that created it.
  await expect(two.locks.take([await found(b)])).rejects.toEqual(busy(b));
  await one.locks.release();
  await (await two.slot(b, a).openForWriting()).close();
});

async function nameOf(path: string): Promise<string> {
  const { dev, ino } = await stat(path);
  return `sitecast-slot-file-${dev >> 8}:${dev & 255}/${ino}`;
}

it('has a name of fixed length, so that every version of libuv treats it the same way', async () => {
  await agent().locks.take([await found(a)]);
  // Zero bytes are shown as @.
  const name = `@${await nameOf(a)}`.padEnd(108, '@');
  expect((await readFile('/proc/net/unix', 'utf8')).split('\n')).toContainEqual(
    expect.stringMatching(new RegExp(` ${name}$`)),
  );
});

/**
 * A process of another user that holds the slot's name. The program must be one that other users can run, which this user's node may not
 * be.
 */
async function heldByNobody(program: string): Promise<ChildProcess> {
  const server = createServer();
  server.listen(`\0${(await nameOf(a)).padEnd(107, '\0')}`);
  await once(server, 'listening');
  const fd: number = Reflect.get(Reflect.get(server, '_handle'), 'fd');
  // On most systems this is the user `nobody`, with a group that owns nothing here.
  const child = spawn(program, ['600'], { uid: 65_534, gid: 65_534, stdio: [fd, 'ignore', 'ignore'] });
  children.push(child);
  await once(child, 'spawn');
  server.close();
  await once(server, 'close');
  return child;
}

it.skipIf(process.getuid?.() !== 0)(
  'is not blocked by a set-uid program that got the name from another user',
  async () => {
    const program = join(directory, 'sleep');
    await copyFile('/bin/sleep', program);
    await chmod(program, 0o4755);
    await chmod(directory, 0o711);
    await chmod(a, 0o600);
    const child = await heldByNobody(program);
    await agent().locks.take([await found(a)]);
    expect(logged).toEqual([expect.stringContaining(`process ${child.pid}, which may not write it`)]);
  },
);

it.skipIf(process.getuid?.() !== 0)(
  'is not blocked by a process that may not write the slot, but by one that may, until that ends',
  async () => {
    const child = await heldByNobody('/bin/sleep');
    const { locks } = agent();
    await chmod(a, 0o600);
    // The warning is logged once, however often the lock is tried.
    for (let looks = 0; looks < 3; looks += 1) await locks.take([await found(a)]);
    expect(logged).toEqual([expect.stringContaining(`process ${child.pid}, which may not write it`)]);
    await chmod(a, 0o602);
    await expect(locks.take([await found(a)])).rejects.toThrow(`process ${child.pid}`);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await locks.take([await found(a)]);
  },
);

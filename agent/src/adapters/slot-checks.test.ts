import { execFileSync } from 'node:child_process';
import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LoopDevices, whyNoLoopDevices } from '../testing/loop-devices.ts';
import { FileSlot } from './file-slot.ts';
import { mountPointsOf, mountsOf } from './mounts.ts';
import { absentMount, checkSlots, ownMountPoint, refuseUnsafe } from './slot-checks.ts';

const MIB = 1024 * 1024;
const hasNoLoopDevices = whyNoLoopDevices() !== undefined;
const devices = new LoopDevices();
let directory: string;
let a: string;
let b: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slots-'));
  a = join(directory, 'a.img');
  b = join(directory, 'b.img');
});
afterEach(async () => {
  devices.release();
  await rm(directory, { recursive: true, force: true });
});

const data = () => join(directory, 'data', 'not', 'there', 'yet');
const check = (A: string, B: string, where = data()) => checkSlots({ slots: { A, B }, data: where });
const refused = (said: string) =>
  expect.objectContaining({ code: 'SITECAST_SETTING_INVALID', message: expect.stringContaining(said) });

describe('at the start', () => {
  it('accepts two files as two slots, whether they exist or not, and data beside them', async () => {
    await expect(check(a, b, directory)).resolves.toBeUndefined();
    await writeFile(a, 'a');
    await expect(check(a, b, directory)).resolves.toBeUndefined();
    await writeFile(b, 'b');
    await expect(check(a, b, directory)).resolves.toBeUndefined();
  });

  it.each(['is there', 'is not there yet'])('refuses one file by two paths where it %s', async how => {
    if (how === 'is there') await writeFile(a, 'a');
    await symlink(directory, join(directory, 'here'));
    const other = relative(process.cwd(), a);
    for (const path of [a, `${directory}/./a.img`, other, join(directory, 'here', 'a.img')])
      await expect(check(a, path)).rejects.toEqual(refused('--slot-a and --slot-b'));
  });

  it('refuses one file by a symbolic link or a hard link', async () => {
    await writeFile(a, 'a');
    await link(a, b);
    await expect(check(a, b)).rejects.toEqual(refused(b));
    await rm(b);
    await symlink(a, b);
    await expect(check(a, b)).rejects.toEqual(refused(b));
  });

  it('refuses what can not be a slot: a directory, a pipe, a character device', async () => {
    execFileSync('mkfifo', [b]);
    for (const path of [b, directory, '/dev/null'])
      await expect(check(a, path)).rejects.toMatchObject({ code: 'SITECAST_SLOT_UNUSABLE' });
  });
});

describe('a missing slot', () => {
  const missing = expect.objectContaining({ code: 'SITECAST_SLOT_MISSING' });

  it('is created where it is a file, once; its name is durable before a byte is written', async () => {
    const slot = new FileSlot(b);
    expect(await slot.locate(undefined)).toEqual({ path: b, isThere: false });
    const writer = await slot.openForWriting();
    expect(await readdir(directory)).toEqual(['b.img']);
    expect((await stat(b)).mode & 0o700).toBe(0o700);
    await writer.close();
    expect(await slot.locate(undefined)).toEqual({ path: b, isThere: true });
  });

  it.each([
    ['below /dev', '/dev/sitecast-nosuch'],
    ['below a directory of /dev that is not there', '/dev/disk/by-partlabel/sitecast-nosuch'],
  ])('is not created %s', async (_where, path) => {
    const slot = new FileSlot(path);
    await expect(slot.locate(undefined)).rejects.toEqual(missing);
    await expect(slot.openForWriting()).rejects.toEqual(missing);
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('is not created through a link, wherever it leads, or in a missing directory', async () => {
    await symlink('/dev/sitecast-nosuch', a);
    await symlink(join(directory, 'elsewhere'), b);
    await symlink('/dev', join(directory, 'dev'));
    for (const path of [a, b, join(directory, 'dev', 'sitecast-nosuch'), join(directory, 'none', 'b.img')])
      await expect(new FileSlot(path).openForWriting()).rejects.toEqual(missing);
    expect((await readdir(directory)).toSorted()).toEqual(['a.img', 'b.img', 'dev']);
  });

  it('is not created again if it was there before', async () => {
    const slot = new FileSlot(b);
    await expect(slot.locate({ path: b, isThere: true })).rejects.toEqual(missing);
    expect(await slot.locate({ path: a, isThere: true })).toMatchObject({ isThere: false });
  });

  it('keeps the other one from being written if the missing one may be the running device', async () => {
    await writeFile(b, 'b');
    const late = new FileSlot(b, { other: '/dev/sitecast-nosuch' });
    await expect(late.openForWriting()).rejects.toEqual(
      expect.objectContaining({
        code: 'SITECAST_SLOT_MISSING',
        message: expect.stringContaining('/dev/sitecast-nosuch'),
      }),
    );
    // A missing file can't be the running device.
    await (await new FileSlot(b, { other: a }).openForWriting()).close();
  });
});

describe('before each write', () => {
  it('notices, by the opened file, a link that now leads to the other slot', async () => {
    await writeFile(a, 'a');
    await writeFile(b, 'b');
    const path = join(directory, 'link');
    await symlink(b, path);
    const slot = new FileSlot(path, { other: a });
    await (await slot.openForWriting()).close();
    await rm(path);
    await symlink(a, path);
    await expect(slot.openForWriting()).rejects.toMatchObject({ code: 'SITECAST_SLOT_OVERLAP' });
    expect(await readFile(a, 'utf8')).toBe('a');
    // As if the link had been changed after the opening. The opened file counts.
    const opened = await stat(a, { bigint: true });
    await rm(path);
    await symlink(b, path);
    await expect(refuseUnsafe(path, opened, a)).rejects.toMatchObject({ code: 'SITECAST_SLOT_OVERLAP' });
  });

  it('is not blocked by a pipe, and does not open a directory', async () => {
    execFileSync('mkfifo', [b]);
    for (const path of [b, directory]) {
      const slot = new FileSlot(path);
      for (const open of [
        () => slot.openForWriting(),
        () => slot.openForReading(),
        () => slot.openForReadBack(),
      ])
        await expect(open()).rejects.toMatchObject({ code: 'SITECAST_SLOT_UNUSABLE' });
    }
  });
});

describe.skipIf(hasNoLoopDevices)('block devices', () => {
  it('are the same by their number, whatever their paths', async () => {
    const device = devices.create(join(directory, 'backing'), MIB);
    const node = join(directory, 'node');
    const [major, minor] = (await readFile(`/sys/block/${device.slice(5)}/dev`, 'utf8')).trim().split(':');
    execFileSync('mknod', [node, 'b', major ?? '', minor ?? '']);
    await symlink(device, a);
    await expect(check(device, node)).rejects.toEqual(refused(node));
    await expect(check(a, node)).rejects.toEqual(refused(node));
    const other = devices.create(join(directory, 'other'), MIB);
    await check(device, other);
  });

  it('are refused where one is the file behind the other, or a disk and its partition; two partitions are two slots', async () => {
    const disk = devices.create(a, 8 * MIB);
    const [first, second] = devices.partition(disk, 8 * MIB);
    for (const [one, other] of [
      [disk, a],
      [disk, second],
      [a, second],
      [devices.attach(second), second],
      [devices.attach(second), disk],
    ] as const) {
      await expect(check(one, other)).rejects.toEqual(refused(one));
      await expect(check(other, one)).rejects.toEqual(refused(other));
      await expect(new FileSlot(one, { other }).openForWriting()).rejects.toMatchObject({
        code: 'SITECAST_SLOT_OVERLAP',
      });
    }
    await check(first, second);
    await (await new FileSlot(first, { other: second }).openForWriting()).close();
  });

  it('are refused where both lie in one file and share bytes of it; two separate parts of a file are two slots', async () => {
    const whole = devices.create(a, 8 * MIB);
    const half = String(4 * MIB);
    const [again, end] = [devices.attach(a), devices.attach(a, '--offset', half)];
    const [first] = devices.partition(whole, 8 * MIB);
    for (const [one, other] of [
      [whole, again],
      [whole, end],
      [first, again],
    ] as const) {
      await expect(check(one, other)).rejects.toEqual(refused(one));
      await expect(new FileSlot(one, { other }).openForWriting()).rejects.toMatchObject({
        code: 'SITECAST_SLOT_OVERLAP',
      });
    }
    await check(devices.attach(a, '--sizelimit', half), end);
  });

  it('are refused where one is mounted and holds the other slot or the data', async () => {
    const device = devices.create(a, MIB);
    devices.format(device);
    const point = join(directory, 'mnt');
    await mkdir(point);
    devices.mount(device, point);
    for (const isThere of [false, true]) {
      if (isThere) await writeFile(join(point, 'b.img'), 'b');
      for (const slot of [device, a])
        await expect(check(slot, join(point, 'b.img'))).rejects.toEqual(refused(slot));
    }
    for (const slot of [device, a])
      await expect(check(slot, b, join(point, 'data'))).rejects.toEqual(refused('--data lies in slot A'));
  });
});

describe.skipIf(hasNoLoopDevices)('a file below a mount point', () => {
  it('is missing where nothing is mounted any more, whether the file exists or not; it is back with the mount', async () => {
    const disk = join(directory, 'disk');
    const slots = join(directory, 'slots');
    for (const path of [disk, slots]) await mkdir(path);
    devices.mount('-t', 'tmpfs', 'tmpfs', disk);
    devices.mount('--bind', disk, slots);
    const slot = new FileSlot(join(slots, 'b.img'));
    const place = await slot.locate(undefined);
    expect(place).toEqual({ path: slot.path, isThere: false, mountPoint: slots });
    devices.unmount(slots);
    const missing = expect.objectContaining({
      code: 'SITECAST_SLOT_MISSING',
      message: expect.stringContaining('nothing is mounted'),
    });
    await expect(slot.locate(place)).rejects.toEqual(missing);
    await writeFile(slot.path, 'somebody made it');
    await expect(slot.locate(place)).rejects.toEqual(missing);
    devices.mount('--bind', disk, slots);
    expect(await slot.locate(place)).toEqual(place);
    // The agent's own data is in the same mount. As the data is there, the mount is there.
    const vouched = new FileSlot(slot.path, { data: join(slots, 'data') });
    expect(await vouched.locate(undefined)).toEqual({ path: slot.path, isThere: false });
  });
});

describe.skipIf(hasNoLoopDevices)('a file in memory', () => {
  const name = `sitecast-test-${process.pid}`;
  const missing = (said: string) =>
    expect.objectContaining({ code: 'SITECAST_SLOT_MISSING', message: expect.stringContaining(said) });

  it.each(['bind', 'devtmpfs'])(
    'is no slot below another mount of /dev (%s), whether it exists or not',
    async how => {
      await mkdir(a);
      devices.mount(...(how === 'bind' ? ['--bind', '/dev', a] : ['-t', 'devtmpfs', 'dev', a]));
      const slot = new FileSlot(join(a, name));
      try {
        for (const isThere of [false, true]) {
          if (isThere) await writeFile(slot.path, 'somebody took its name');
          await expect(slot.locate(undefined)).rejects.toEqual(missing('is the name of a device'));
          await expect(slot.openForWriting()).rejects.toEqual(missing('is the name of a device'));
          expect(await slot.openForReading()).toBeUndefined();
        }
      } finally {
        await rm(slot.path, { force: true });
      }
    },
  );

  it('is not created, unless the agent’s data is in memory, too; an existing one is a slot', async () => {
    for (const path of [a, b]) {
      await mkdir(path);
      devices.mount('-t', 'tmpfs', 'tmpfs', path);
    }
    // The result must not depend on how this machine mounts /tmp.
    const data = '/';
    const slot = new FileSlot(join(a, 'slot'), { data });
    await expect(slot.locate(undefined)).rejects.toEqual(missing('in memory (tmpfs)'));
    await expect(slot.openForWriting()).rejects.toEqual(missing('in memory (tmpfs)'));
    expect(await readdir(a)).toEqual([]);
    await (await new FileSlot(slot.path, { data: join(b, 'data') }).openForWriting()).close();
    await (await slot.openForWriting()).close();
  });
});

describe('the list of mounts', () => {
  const mounts = mountsOf(
    [
      '22 1 254:0 / / rw,relatime - ext4 /dev/root rw',
      '30 22 0:25 / /srv\\040files rw shared:1 master:2 - tmpfs none rw',
      '31 22 254:0 /var/lib/agent /var/lib/agent rw - ext4 /dev/root rw',
      '32 31 259:3 / /var/lib/agent/slots rw - ext4 /dev/nvme0n1p3 rw',
      'a line of another kind',
    ].join('\n'),
  );

  it('is parsed with its escapes; a directory that is mounted over itself is no mount of its own', () => {
    expect(ownMountPoint('/srv files/x', mounts)).toBe('/srv files');
    expect(ownMountPoint('/srv filesystems', mounts)).toBeUndefined();
    expect(ownMountPoint('/var/lib/agent', mounts)).toBeUndefined();
    expect(ownMountPoint('/var/lib/agent/slots/b', mounts)).toBe('/var/lib/agent/slots');
  });

  it('is compared with /etc/fstab', () => {
    const wanted = mountPointsOf(
      '# <file system>\n/dev/sda2 / ext4\nLABEL=slots\t/mnt/slots/  ext4 nofail\n/dev/sda3 none swap\nx /srv\\040files tmpfs\n',
    );
    expect(wanted).toEqual(['/', '/mnt/slots', '/srv files']);
    expect(absentMount('/mnt/slots/deep', wanted, mounts)).toBe('/mnt/slots');
    expect(absentMount('/srv files', wanted, mounts)).toBeUndefined();
    expect(absentMount('/mnt', wanted, mounts)).toBeUndefined();
    expect(absentMount('/mnt/slots', wanted, [])).toBeUndefined();
  });
});

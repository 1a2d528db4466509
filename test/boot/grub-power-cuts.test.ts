import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { evaluateGrub } from '@sitecast/agent/testing';
import { randomFrom } from '@sitecast/shared/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BootTestbed, NEXT, OLD } from './testbed/boot-testbed.ts';
import { checkBoot, isIn, partitionOf, readEnvironments } from './testbed/disk.ts';
import { whyNoMachine } from './testbed/needs.ts';
import { type LoggedWrite, PowerCuts, readWriteLog } from './testbed/write-log.ts';

const SEED = 142;
const CUTS = 600;
/** Of the cuts, those whose disk a machine boots from, to hold the model against GRUB itself. */
const BOOTED_CUTS = 6;
const why = whyNoMachine();

describe.skipIf(why !== '')(`a power cut of a machine with GRUB${why}`, () => {
  let testbed: BootTestbed;
  const images = new Map<string, Buffer>();
  beforeAll(async () => {
    testbed = await BootTestbed.open();
    for (const version of [OLD, NEXT]) images.set(version, readFileSync(testbed.image(version, 'good')));
  });
  afterAll(() => testbed.close());

  it(`boots a whole image, whatever writes the disk's cache loses (${CUTS} cuts replayed)`, async () => {
    const random = randomFrom(SEED);
    const rollout = await testbed.publish('replayed', 'good');
    const device = testbed.makeDevice('replayed', rollout);
    try {
      const before = readFileSync(device.disk.path);
      const log = testbed.site.testbed.path('writes');
      const machine = device.powerOn(log);
      await device.reports('completed');
      await machine.shows(/ idle\b/);
      await device.cutPower();
      const writes = readWriteLog(log);
      const moments = momentsOf(writes, random);
      expect(writes.filter(({ isFlush }) => isFlush).length).toBeGreaterThan(10);

      const cuts = new PowerCuts(Buffer.from(before), writes);
      const judged = moments.map((moment, at) =>
        cuts.lend(
          moment,
          () => random() < 0.5,
          disk => {
            const starts = startsFrom(disk, { isChecked: true });
            if (at % Math.floor(CUTS / BOOTED_CUTS) === 0)
              writeFileSync(testbed.site.testbed.path(`cut-${at}`), disk);
            return { at, moment, starts };
          },
        ),
      );
      const broken = judged.filter(({ starts }) => !starts.every(({ holds }) => holds !== undefined));
      expect(broken).toEqual([]);
      const first = judged.map(({ starts }) => starts[0]?.slot);
      expect({ A: first.includes('A'), B: first.includes('B') }).toEqual({ A: true, B: true });

      for (const { at, starts } of judged.filter(
        ({ at: number }) => number % Math.floor(CUTS / BOOTED_CUTS) === 0,
      )) {
        writeFileSync(device.disk.path, readFileSync(testbed.site.testbed.path(`cut-${at}`)));
        const booting = device.powerOn();
        await booting.shows(new RegExp(`Sitecast: starting slot ${starts[0]?.slot}`));
        await booting.shows(new RegExp(`INIT slot ${starts[0]?.slot} runs release ${starts[0]?.holds}`));
        await device.cutPower();
      }

      // The control: on a disk that ignores flushes some slot is chosen that isn't whole. So the judgement can fail.
      const lying = new PowerCuts(Buffer.from(before), writes, { doesFlush: false });
      const wrong = moments.filter((moment, at) => {
        if (at % 10 !== 0) return false;
        const starts = lying.lend(moment, () => random() < 0.5, startsFrom);
        return !starts.every(({ holds }) => holds !== undefined);
      });
      expect(wrong.length).toBeGreaterThan(0);
      process.stderr.write(
        `${writes.length} writes and flushes, ${CUTS} cuts, none bad; ${wrong.length} of ${CUTS / 10} bad where flushes are ignored\n`,
      );
    } finally {
      await device.remove();
    }
  });

  /**
   * What boots from such a disk while no slot is confirmed: a start, and as many more as there are tries.
   * @param isChecked whether the boot partition must be one that a boot mends without a person
   */
  function startsFrom(
    disk: Buffer,
    { isChecked = false } = {},
  ): { slot: 'A' | 'B' | undefined; holds: string | undefined }[] {
    const directory = mkdtempSync(testbed.site.testbed.path('boot-'));
    const image = join(directory, 'image');
    writeFileSync(image, partitionOf(disk, 'boot'));
    readEnvironments(image, directory);
    if (isChecked) checkBoot(image);
    const starts = [1, 2, 3].map(() => evaluateGrub(directory).slot);
    const held = new Map(
      [...new Set(starts)].map(slot => [slot, slot && versionIn(partitionOf(disk, slot))]),
    );
    return starts.map(slot => ({ slot, holds: held.get(slot) }));
  }

  /** @returns undefined where it is no whole image */
  function versionIn(slot: Buffer): string | undefined {
    return [...images].find(([, image]) => slot.equals(image))?.[0];
  }
});

/** Half of them anywhere, and half right around what is written to the boot partition. In order. */
function momentsOf(writes: readonly LoggedWrite[], random: () => number): number[] {
  const near = 20;
  const decisive = writes.flatMap(({ at }, index) => (isIn('boot', at) ? [index] : []));
  expect(decisive.length).toBeGreaterThan(2);
  return Array.from({ length: CUTS }, (_, index) => {
    if (index % 2 === 0) return Math.ceil(random() * writes.length);
    const around = decisive[Math.floor(random() * decisive.length)] ?? 0;
    return Math.min(writes.length, Math.max(1, around + Math.floor((random() - 0.5) * 2 * near)));
  }).toSorted((one, other) => one - other);
}

import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { clearDataDirectory } from './data-directory.ts';

const begun = (name: string) => `${name}.0123456789ab.partial`;

it('deletes what a killed agent had begun to write, and nothing of others: a second agent may be writing the lock', async () => {
  const data = await mkdtemp(join(tmpdir(), 'sitecast-data-'));
  try {
    const own = [
      'state.json',
      'boot.json.copy',
      'identity.key',
      'spending.json',
      'status.json',
      'gateways.json',
    ];
    const others = ['lock', 'a.img', 'peers.backup'];
    for (const name of [...own, ...others]) await writeFile(join(data, begun(name)), '');
    for (const name of ['trust', 'documents', 'patches', 'mount']) {
      await mkdir(join(data, name));
      await writeFile(join(data, name, begun('f'.repeat(64))), '');
    }
    await clearDataDirectory(data, () => undefined);
    const left = (await readdir(data, { recursive: true })).filter(name => name.endsWith('.partial'));
    expect(left.toSorted()).toEqual([...others.map(begun), join('mount', begun('f'.repeat(64)))].toSorted());
  } finally {
    await rm(data, { recursive: true });
  }
});

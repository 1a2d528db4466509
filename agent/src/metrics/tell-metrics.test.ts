import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildInfo } from '@sitecast/shared/metrics';
import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { tellMetrics } from './tell-metrics.ts';

it('writes through no link that who owns the directory has put there', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'sitecast-metrics-'));
  try {
    const [file, victim] = [join(directory, 'sitecast.prom'), join(directory, 'victim')];
    await writeFile(victim, 'of somebody else');
    for (const name of [file, `${file}.partial`]) await symlink(victim, name);
    const registry = new Registry();
    registry.registerMetric(buildInfo());
    const logged: string[] = [];
    const end = await tellMetrics(registry, { file, listen: undefined }, (_, message) =>
      logged.push(message),
    );
    expect(await readFile(file, 'utf8')).toContain('sitecast_build_info{');
    expect(await readFile(victim, 'utf8')).toBe('of somebody else');
    await end();
    expect([existsSync(file), existsSync(`${file}.partial`), logged]).toEqual([false, false, []]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

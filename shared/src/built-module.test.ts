import { existsSync } from 'node:fs';
import { expect, it } from 'vitest';
import { builtModule } from './built-module.ts';

it('finds what was built of a source, whatever the folders above are named', () => {
  expect(builtModule('file:///usr/src/app/src/delta/applier.ts', 'apply-worker').href).toBe(
    'file:///usr/src/app/dist/delta/apply-worker.js',
  );
  expect(existsSync(builtModule(new URL('./delta/applier.ts', import.meta.url).href, 'apply-worker'))).toBe(
    true,
  );
});

it('finds a module beside the one that starts it, in dist and in a bundle', () => {
  for (const folder of ['file:///usr/src/app/dist/delta', 'file:///srv/agent/bundle'])
    expect(builtModule(`${folder}/applier-X.js`, 'apply-worker').href).toBe(`${folder}/apply-worker.js`);
});

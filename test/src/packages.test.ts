import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { isBuiltin } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { z } from 'zod';

const TOP = fileURLToPath(new URL('../../', import.meta.url));
const PACKAGES = ['shared', 'origin', 'gateway', 'agent'];
const packedSchema = z.array(
  z.looseObject({ name: z.string(), files: z.array(z.looseObject({ path: z.string() })) }),
);
const manifestSchema = z.looseObject({
  bin: z.record(z.string(), z.string()).optional(),
  dependencies: z.record(z.string(), z.string()),
  peerDependencies: z.record(z.string(), z.string()).optional(),
});
const IMPORT = /(?:\bfrom\s*|\bimport\s*\(\s*|^import\s+)['"]([@a-z.][\w@./:-]*)['"]/gm;

const sourceOf = (folder: string, path: string): string =>
  join(TOP, folder, path.replace(/^dist\//, 'src/').replace(/\.js$/, '.ts'));

/** The package of an import: `@scope/name/part` and `name/part` are parts of a package. */
const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

it('packs the built files and no tests, and declares every package that it imports', async () => {
  const workspaces = PACKAGES.flatMap(name => ['--workspace', name]);
  const { stdout } = await promisify(execFile)(
    'npm',
    ['pack', '--dry-run', '--json', '--ignore-scripts', ...workspaces],
    { cwd: TOP, maxBuffer: 64 * 2 ** 20 },
  );
  const packed = packedSchema.parse(JSON.parse(stdout));
  expect(packed.map(({ name }) => name)).toEqual(PACKAGES.map(name => `@sitecast/${name}`));
  for (const [at, folder] of PACKAGES.entries()) {
    const files = packed[at]?.files.map(({ path }) => path) ?? [];
    const manifest = manifestSchema.parse(
      JSON.parse(await readFile(join(TOP, folder, 'package.json'), 'utf8')),
    );
    expect(files).toEqual(
      expect.arrayContaining(Object.values(manifest.bin ?? {}).map(path => path.slice(2))),
    );
    expect(files.filter(path => /(^|\/)(src|testing)\/|\.test\.|\.map$|tsbuildinfo/.test(path))).toEqual([]);
    const declared = new Set(Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies }));
    // A checkout that was built before may hold outputs of files that are gone.
    const built = files.filter(name => name.endsWith('.js') && existsSync(sourceOf(folder, name)));
    expect(built.length).toBeGreaterThan(folder === 'shared' ? 80 : 60);
    for (const path of built) {
      const text = await readFile(join(TOP, folder, path), 'utf8');
      const imported = [...text.matchAll(IMPORT)].map(([, specifier = '']) => specifier);
      const missing = imported.filter(
        specifier =>
          !specifier.startsWith('.') && !isBuiltin(specifier) && !declared.has(packageOf(specifier)),
      );
      expect({ path, missing }).toEqual({ path, missing: [] });
    }
  }
});

import { createRequire } from 'node:module';

/** A real program in two real versions, each a native binary for this platform. */
export interface Firmware {
  version: string;
  path: string;
}

/** @throws where npm installed no binary for this platform */
export function readFirmware(alias: 'firmware-v1' | 'firmware-v2'): Firmware {
  const manifestPath = createRequire(import.meta.url).resolve(`${alias}/package.json`);
  const require = createRequire(manifestPath);
  const manifest: { version: string } = require(manifestPath);
  const path = require.resolve(`@esbuild/${process.platform}-${process.arch}/bin/esbuild`);
  return { version: manifest.version, path };
}

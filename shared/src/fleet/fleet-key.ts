import { randomBytes } from 'node:crypto';
import { createFileDurably } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { readPrivateFile } from '../signing/index.ts';

const FLEET_KEY_BYTES = 32;
const HEX_KEY = /^[0-9a-f]{64}$/;
export const MAX_FLEET_KEY_FILE_BYTES = 1024;

/**
 * What closes the fleet's network: a secret that origin and gateways share. Without it a node learns not even which
 * protocols are spoken. It admits to the network only; what is said there is believed when signed metadata says so.
 */
export type FleetKey = Uint8Array;

/** A new fleet's key. */
export function generateFleetKey(): FleetKey {
  return randomBytes(FLEET_KEY_BYTES);
}

export function fleetKeyToText(key: FleetKey): string {
  return Buffer.from(key).toString('hex');
}

/**
 * @param text 64 lower-case hexadecimal digits; white space around them doesn't matter
 * @param path of the file that it is from, for the message
 * @throws SITECAST_FLEET_KEY_INVALID
 */
export function parseFleetKey(text: string, path?: string): FleetKey {
  const hex = text.trim();
  if (!HEX_KEY.test(hex))
    throw new SitecastError('badInput', 'SITECAST_FLEET_KEY_INVALID', `${path ?? 'this'} is no fleet's key`, {
      hint: 'it has 64 hexadecimal digits; `sitecast keys create fleet` makes one',
    });
  return Buffer.from(hex, 'hex');
}

/**
 * Writes a new key, 0600, where no file is yet; it survives a power cut when this returns.
 * @throws SITECAST_KEY_EXISTS: a key that is in use is never overwritten
 */
export async function createFleetKeyFile(path: string): Promise<void> {
  try {
    await createFileDurably(path, `${fleetKeyToText(generateFleetKey())}\n`, 0o600);
  } catch (error) {
    if (!isSystemError(error, 'EEXIST')) throw error;
    throw new SitecastError('conflict', 'SITECAST_KEY_EXISTS', `${path} is already there`, {
      hint: 'give another --name, or another --out',
    });
  }
}

/** @throws SITECAST_FLEET_KEY_INVALID, SITECAST_KEY_PERMISSIONS where others than its owner may read it, the system's errors */
async function readFleetKeyFile(path: string): Promise<FleetKey> {
  return parseFleetKey((await readPrivateFile(path, MAX_FLEET_KEY_FILE_BYTES)).toString('utf8'), path);
}

/**
 * The key that joining the fleet's network takes.
 * @throws SITECAST_FLEET_KEY_MISSING, and as `readFleetKeyFile`
 */
export async function requireFleetKey(path: string | undefined): Promise<FleetKey> {
  if (path !== undefined) return readFleetKeyFile(path);
  throw new SitecastError('badInput', 'SITECAST_FLEET_KEY_MISSING', "gossip needs the fleet's key", {
    hint: 'give --fleet-key-file; `sitecast keys create fleet` makes one',
  });
}

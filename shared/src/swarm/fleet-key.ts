import { randomBytes } from 'node:crypto';
import { SitecastError } from '../errors.ts';

const FLEET_KEY_BYTES = 32;
const HEX_KEY = /^[0-9a-f]{64}$/;

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
 * @throws SITECAST_FLEET_KEY_INVALID
 */
export function parseFleetKey(text: string): FleetKey {
  const hex = text.trim();
  if (!HEX_KEY.test(hex))
    throw new SitecastError('badInput', 'SITECAST_FLEET_KEY_INVALID', "this is no fleet's key", {
      hint: 'it has 64 hexadecimal digits',
    });
  return Buffer.from(hex, 'hex');
}

/** The key file that libp2p's private networks use (github.com/libp2p/specs, pnet/Private-Networks-PSK-V1.md). */
export function swarmKeyFile(key: FleetKey): Uint8Array {
  return Buffer.from(`/key/swarm/psk/1.0.0/\n/base16/\n${fleetKeyToText(key)}`);
}

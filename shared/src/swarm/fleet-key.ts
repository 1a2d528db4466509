import { type FleetKey, fleetKeyToText } from '../fleet/index.ts';

/** The key file that libp2p's private networks use (github.com/libp2p/specs, pnet/Private-Networks-PSK-V1.md). */
export function swarmKeyFile(key: FleetKey): Uint8Array {
  return Buffer.from(`/key/swarm/psk/1.0.0/\n/base16/\n${fleetKeyToText(key)}`);
}

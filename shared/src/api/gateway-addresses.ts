import { z } from 'zod';
import { idSchema, siteSchema } from '../fleet/fields.ts';

// Who can send this: an enrolled gateway, a stolen one among them, and the origin. The worst message: addresses of somebody
// else, so that gateways knock there (a handshake that fails, a GET that finds no gateway, no more); so they're few and short.

export const MAX_GATEWAY_ADDRESSES = 8;
export const MAX_GATEWAY_URLS = 4;
const MAX_ADDRESS_CHARS = 200;
const MAX_URL_CHARS = 200;
/** Gateways that the origin names in one answer. */
export const MAX_NAMED_GATEWAYS = 24;

/** `/ip4/192.0.2.1/tcp/7402/p2p/12D3KooW…`: whoever answers there has that id, or isn't spoken to. */
const fleetAddressSchema = z
  .string()
  .max(MAX_ADDRESS_CHARS)
  .regex(/^\/(?:ip4|ip6|dns|dns4|dns6)\/[0-9A-Za-z.:-]+\/tcp\/\d{1,5}\/p2p\/12D3KooW\w+$/);

/** Where the gateway's HTTP side is, for the other gateways of its site; without a path. */
const gatewayUrlSchema = z
  .string()
  .max(MAX_URL_CHARS)
  .regex(/^https?:\/\/[^\s/?#@]+$/);

const fleetAddressesSchema = z.array(fleetAddressSchema).max(MAX_GATEWAY_ADDRESSES);

/** Where others find a gateway: in the fleet's network, and on its site's LAN. */
export const gatewayAddressesSchema = z.object({
  fleet: fleetAddressesSchema,
  urls: z.array(gatewayUrlSchema).max(MAX_GATEWAY_URLS),
});
export type GatewayAddresses = z.infer<typeof gatewayAddressesSchema>;

/** Another gateway, as the origin names it. URLs are there for those of the same site alone. */
export const namedGatewaySchema = gatewayAddressesSchema.extend({ id: idSchema, site: siteSchema });
export type NamedGateway = z.infer<typeof namedGatewaySchema>;

/** What the origin answers a gateway that has said where it is. */
export const knownGatewaysSchema = z.object({
  /** The origin's own place in the fleet's network; none where it isn't in it. */
  origin: fleetAddressesSchema,
  gateways: z.array(namedGatewaySchema).max(MAX_NAMED_GATEWAYS),
});
export type KnownGateways = z.infer<typeof knownGatewaysSchema>;

/** The addresses that may be told: those of the right form, at most as many as are taken. */
export function tellableAddresses(addresses: readonly string[]): string[] {
  return addresses
    .filter(address => fleetAddressSchema.safeParse(address).success)
    .slice(0, MAX_GATEWAY_ADDRESSES);
}

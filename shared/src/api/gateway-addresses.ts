import { z } from 'zod';
import { idSchema, siteSchema } from '../fleet/fields.ts';

// Senders: enrolled gateways, a stolen one among them, and the origin. The worst message names addresses of other machines, so that
// gateways dial them. That costs a failed handshake or GET each. So addresses are few and short.

export const MAX_GATEWAY_ADDRESSES = 8;
export const MAX_GATEWAY_URLS = 4;
const MAX_ADDRESS_CHARS = 200;
const MAX_URL_CHARS = 200;
/** Gateways that the origin names in one answer. */
export const MAX_NAMED_GATEWAYS = 24;

/** `/ip4/192.0.2.1/tcp/7402/p2p/12D3KooW…`. The machine that answers there must prove this id. */
const fleetAddressSchema = z
  .string()
  .max(MAX_ADDRESS_CHARS)
  .regex(/^\/(?:ip4|ip6|dns|dns4|dns6)\/[0-9A-Za-z.:-]+\/tcp\/\d{1,5}\/p2p\/12D3KooW\w+$/);

/** The gateway's HTTP address for the other gateways of its site, without a path. */
const gatewayUrlSchema = z
  .string()
  .max(MAX_URL_CHARS)
  .regex(/^https?:\/\/[^\s/?#@]+$/);

const fleetAddressesSchema = z.array(fleetAddressSchema).max(MAX_GATEWAY_ADDRESSES);

/** A gateway's addresses in the fleet's network, and on its site's LAN. */
export const gatewayAddressesSchema = z.object({
  fleet: fleetAddressesSchema,
  urls: z.array(gatewayUrlSchema).max(MAX_GATEWAY_URLS),
});
export type GatewayAddresses = z.infer<typeof gatewayAddressesSchema>;

/** Another gateway, as the origin names it. Only gateways of the same site get its URLs. */
export const namedGatewaySchema = gatewayAddressesSchema.extend({ id: idSchema, site: siteSchema });
export type NamedGateway = z.infer<typeof namedGatewaySchema>;

/** The origin's answer to a gateway's addresses. */
export const knownGatewaysSchema = z.object({
  /** The origin's own addresses in the fleet's network; empty if it isn't in it. */
  origin: fleetAddressesSchema,
  gateways: z.array(namedGatewaySchema).max(MAX_NAMED_GATEWAYS),
});
export type KnownGateways = z.infer<typeof knownGatewaysSchema>;

/** The addresses of the right form, as many as the schema takes. */
export function tellableAddresses(addresses: readonly string[]): string[] {
  return addresses
    .filter(address => fleetAddressSchema.safeParse(address).success)
    .slice(0, MAX_GATEWAY_ADDRESSES);
}

import { z } from 'zod';
import { MAX_INDEX_CHUNKS } from '../content/index.ts';
import { idSchema } from '../fleet/fields.ts';

/** Images that one device tells of: two slots, and room for what comes. */
const MAX_IMAGES = 8;
const MAX_ADDRESSES = 8;
/** Peers in one answer. */
export const MAX_NAMED_PEERS = 64;
const MAX_ADDRESS_CHARS = 160;

/** Plain TCP, to an address and not to a name: nobody is made to ask a name server for somebody. */
const address = z
  .string()
  .max(MAX_ADDRESS_CHARS)
  .regex(/^\/ip[46]\/[0-9a-f.:]{2,45}\/tcp\/\d{1,5}\/p2p\/\w{1,64}$/);

/** A machine of a site that takes part in the chunk exchange. Nobody vouches for the addresses. */
const sitePeerSchema = z
  .object({
    id: idSchema,
    /** Multiaddresses, the id at the end of each. */
    addresses: z.array(address).min(1).max(MAX_ADDRESSES),
  })
  .refine(({ id, addresses }) => addresses.every(each => each.endsWith(`/p2p/${id}`)), {
    error: 'an address of somebody else',
  });
export type SitePeer = z.infer<typeof sitePeerSchema>;

/** What a device tells its gateway: where it is reached, and of which images it holds or fetches chunks. */
export const peerNoticeSchema = z.object({
  peer: sitePeerSchema,
  /** SHA-256 of each image's chunk index, in hex. */
  images: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(MAX_IMAGES),
  /** How many chunks of each of them it holds, in their order; earlier agents don't say. */
  held: z.array(z.int().min(0).max(MAX_INDEX_CHUNKS)).max(MAX_IMAGES).optional(),
});
export type PeerNotice = z.infer<typeof peerNoticeSchema>;

/** What the gateway says to that: others that may have chunks for it. */
export const namedPeersSchema = z.object({ peers: z.array(sitePeerSchema).max(MAX_NAMED_PEERS) });

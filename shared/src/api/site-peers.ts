import { z } from 'zod';
import { MAX_INDEX_CHUNKS } from '../content/index.ts';
import { idSchema } from '../fleet/fields.ts';

/** Images in one notice: two slots, and room for later ones. */
const MAX_IMAGES = 8;
const MAX_ADDRESSES = 8;
/** Peers in one answer. */
export const MAX_NAMED_PEERS = 64;
const MAX_ADDRESS_CHARS = 160;

/** Plain TCP to an address. A name would let one device make others ask name servers. */
const address = z
  .string()
  .max(MAX_ADDRESS_CHARS)
  .regex(/^\/ip[46]\/[0-9a-f.:]{2,45}\/tcp\/\d{1,5}\/p2p\/\w{1,64}$/);

/** A machine of a site that takes part in the chunk exchange. Its addresses are unverified. */
const sitePeerSchema = z
  .object({
    id: idSchema,
    /** Multiaddresses, each with the id at its end. */
    addresses: z.array(address).min(1).max(MAX_ADDRESSES),
  })
  .refine(({ id, addresses }) => addresses.every(each => each.endsWith(`/p2p/${id}`)), {
    error: 'an address of somebody else',
  });
export type SitePeer = z.infer<typeof sitePeerSchema>;

/** A device's notice to its gateway: its addresses, and the images of which it holds or fetches chunks. */
export const peerNoticeSchema = z.object({
  peer: sitePeerSchema,
  /** SHA-256 of each image's chunk index, in hex. */
  images: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(MAX_IMAGES),
  /** How many chunks of each image it holds, in the same order. Absent from earlier agents. */
  held: z.array(z.int().min(0).max(MAX_INDEX_CHUNKS)).max(MAX_IMAGES).optional(),
});
export type PeerNotice = z.infer<typeof peerNoticeSchema>;

/** The gateway's answer: other peers that may have chunks for the device. */
export const namedPeersSchema = z.object({ peers: z.array(sitePeerSchema).max(MAX_NAMED_PEERS) });

import { base58btc } from 'multiformats/bases/base58';
import { SitecastError } from '../errors.ts';
import { cutText } from '../text/index.ts';

const PUBLIC_KEY_BYTES = 32;
// libp2p's PeerId of an Ed25519 key: an identity multihash (0x00, 36 bytes) of the key's protobuf
// (field 1: type Ed25519, field 2: 32 bytes). github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
const PREFIX = Buffer.from('002408011220', 'hex');
const MAX_ID_CHARS = 64;

/** The id of an Ed25519 key: its libp2p PeerId, `12D3KooW…`. */
export function idOfPublicKey(publicKey: Uint8Array): string {
  if (publicKey.length !== PUBLIC_KEY_BYTES)
    throw new RangeError(`an Ed25519 public key has ${PUBLIC_KEY_BYTES} bytes`);
  return base58btc.baseEncode(Buffer.concat([PREFIX, publicKey]));
}

/**
 * The public key in an id.
 * @throws SITECAST_ID_INVALID for anything but the id of an Ed25519 key in its one spelling
 */
export function publicKeyOfId(id: string): Buffer {
  const bytes = id.length <= MAX_ID_CHARS ? decode(id) : undefined;
  if (
    bytes?.length !== PREFIX.length + PUBLIC_KEY_BYTES ||
    !bytes.subarray(0, PREFIX.length).equals(PREFIX)
  ) {
    throw new SitecastError(
      'badInput',
      'SITECAST_ID_INVALID',
      `${JSON.stringify(cutText(id, MAX_ID_CHARS))} is no id of a device or gateway`,
    );
  }
  return bytes.subarray(PREFIX.length);
}

export function isId(text: string): boolean {
  try {
    publicKeyOfId(text);
    return true;
  } catch {
    // The caller asks whether it is an id.
    return false;
  }
}

function decode(id: string): Buffer | undefined {
  try {
    return Buffer.from(base58btc.baseDecode(id));
  } catch {
    // Characters outside of the alphabet make it no id.
    return undefined;
  }
}

import { LzmaDecoder } from '../../codecs/lzma.ts';
import { wrongPiece } from '../wrong-piece.ts';

/**
 * Decodes LZMA2 (the .xz file format 1.2.1 names it; its chunks are described in XZ Utils' `lzma2_decoder.c`) to exactly `plain.length` bytes.
 * @returns how many bytes of `coded` belong to it
 * @throws SITECAST_PATCH_PIECE, SITECAST_PATCH_STREAM
 */
export function decodeLzma2(coded: Uint8Array, plain: Uint8Array): number {
  const decoder = new LzmaDecoder(plain);
  const view = new DataView(coded.buffer, coded.byteOffset, coded.byteLength);
  const need = (end: number): void => {
    if (end > coded.length) wrongPiece('LZMA2 is cut off');
  };
  for (let at = 0; ; ) {
    need(at + 1);
    const control = view.getUint8(at);
    if (control === 0) {
      if (decoder.length !== plain.length) wrongPiece('it is shorter than stated');
      return at + 1;
    }
    need(at + 6);
    if (control < 0x80) {
      if (control > 2) wrongPiece('LZMA2 is malformed');
      const end = at + 3 + view.getUint16(at + 1) + 1;
      need(end);
      decoder.store(coded.subarray(at + 3, end));
      at = end;
      continue;
    }
    const plainLength = ((control & 0x1f) << 16) + view.getUint16(at + 1) + 1;
    const codedLength = view.getUint16(at + 3) + 1;
    const reset = (control >> 5) & 3;
    const start = at + (reset >= 2 ? 6 : 5);
    need(start + codedLength);
    if (reset >= 2) decoder.setProperties(view.getUint8(at + 5));
    else if (reset === 1) decoder.reset();
    // The first byte is always 0.
    decoder.decode(coded.subarray(start + 1, start + codedLength), plainLength);
    at = start + codedLength;
  }
}

import type { ScanResult, ScanTask } from './opening/scan.ts';
import type { SquashfsLayer } from './opening/squashfs-layer.ts';
import type { RangeBytes } from './opening/window-views.ts';

/** What the maker's process is asked to do, one task at a time. */
export type MakerTask =
  /** Forgets all samples, and expects those of a base of this length. */
  | { readonly name: 'begin'; readonly baseBytes: number }
  /** Takes samples of a range of the base, opened: of `length` bytes from `from` on, which lie at `offset` of the opened base. */
  | (RangeBytes & {
      readonly name: 'sample';
      readonly offset: number;
      readonly from: number;
      readonly length: number;
    })
  /** Where in the opened base the content of this range of the target lies: offsets, rising. */
  | (RangeBytes & { readonly name: 'find' })
  /** The compressed pieces that the tables of a squashfs name; it asks for the parts of the image that it needs. */
  | { readonly name: 'pieces'; readonly sizeBytes: number }
  /** The plain lengths of compressed pieces, and where kernels may begin. */
  | (ScanTask & { readonly name: 'scan' })
  /** Whether an LZ4 block lies behind a length at `at` of the range's opened bytes. */
  | (RangeBytes & { readonly name: 'probe'; readonly at: number })
  /** The patch that makes bytes `from` to `to` of the target's range from the base's; none where it would be as long as `worthBytes`, or longer. */
  | {
      readonly name: 'patch';
      readonly base: RangeBytes;
      readonly target: RangeBytes & { readonly from: number; readonly to: number };
      readonly worthBytes: number;
    };

/** What each task gives. */
export interface MakerResults {
  begin: undefined;
  sample: undefined;
  find: Float64Array;
  /** Undefined where it isn't one that can be opened. */
  pieces: SquashfsLayer | undefined;
  scan: ScanResult;
  probe: { length: number; plainLength: number } | undefined;
  patch: Uint8Array | undefined;
}

/** A part of the image that a task is about. */
export interface WantedPart {
  readonly offset: number;
  readonly length: number;
}

/** The longest part that is read for the process at one time. */
export const MAX_PART_BYTES = 256 * 1024;

/** What the process sends: the answer to its task, or, before that, what it needs for it. */
export type MakerReply =
  | { readonly result: MakerResults[MakerTask['name']] }
  | { readonly error: string }
  | { readonly wanted: WantedPart };

/** What the process is sent: a task, or the part that it wanted. */
export type MakerMessage = MakerTask | { readonly name: 'part'; readonly bytes: Uint8Array };

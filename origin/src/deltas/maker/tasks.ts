import type { ScanResult, ScanTask } from './opening/scan.ts';
import type { SquashfsLayer } from './opening/squashfs-layer.ts';
import type { RangeBytes } from './opening/window-views.ts';

/** The tasks of the maker's process, one at a time. */
export type MakerTask =
  /** Forgets all samples, and prepares for a base of this length. */
  | { readonly name: 'begin'; readonly baseBytes: number }
  /**
   * Takes samples of a part of the opened base: of `length` opened bytes of the range from `from` on, which are at `offset` of the opened
   * base.
   */
  | (RangeBytes & {
      readonly name: 'sample';
      readonly offset: number;
      readonly from: number;
      readonly length: number;
    })
  /** Where the opened base holds content of this range of the target: rising offsets. */
  | (RangeBytes & { readonly name: 'find' })
  /** The compressed pieces that the tables of a squashfs list. The process asks for the parts of the image that it needs. */
  | { readonly name: 'pieces'; readonly sizeBytes: number }
  /** The plain lengths of compressed pieces, and places where kernels may begin. */
  | (ScanTask & { readonly name: 'scan' })
  /** Whether there is an LZ4 block after the length field at `at` in the range's opened bytes. */
  | (RangeBytes & { readonly name: 'probe'; readonly at: number })
  /**
   * The patch that makes the bytes from `from` to `to` of the target's range from the base's range; none unless it is shorter than
   * `worthBytes`.
   */
  | {
      readonly name: 'patch';
      readonly base: RangeBytes;
      readonly target: RangeBytes & { readonly from: number; readonly to: number };
      readonly worthBytes: number;
    };

/** The result of each task. */
export interface MakerResults {
  begin: undefined;
  sample: undefined;
  find: Float64Array;
  /** Undefined where the image isn't a squashfs that can be opened. */
  pieces: SquashfsLayer | undefined;
  scan: ScanResult;
  probe: { length: number; plainLength: number } | undefined;
  patch: Uint8Array | undefined;
}

/** A part of the task's image. */
export interface WantedPart {
  readonly offset: number;
  readonly length: number;
}

/** The longest part that the process may ask for. */
export const MAX_PART_BYTES = 256 * 1024;

/** What the process sends: requests for parts, then the result of its task. */
export type MakerReply =
  | { readonly result: MakerResults[MakerTask['name']] }
  | { readonly error: string }
  | { readonly wanted: WantedPart };

/** What the process receives: a task, or the part that it asked for. */
export type MakerMessage = MakerTask | { readonly name: 'part'; readonly bytes: Uint8Array };

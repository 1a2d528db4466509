import type { ScanResult, ScanTask } from './opening/scan.ts';
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
  scan: ScanResult;
  probe: { length: number; plainLength: number } | undefined;
  patch: Uint8Array | undefined;
}

export type MakerReply = { readonly result: MakerResults[MakerTask['name']] } | { readonly error: string };

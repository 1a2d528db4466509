/** The part of lzma-native 8 that is used. The published types lack the raw encoder. */
declare module 'lzma-native' {
  import type { Transform } from 'node:stream';

  namespace lzma {
    /** `lzma_options_lzma` of liblzma's lzma/lzma12.h, without `preset_dict`. */
    interface LzmaFilterOptions {
      readonly dictSize: number;
      readonly lc: number;
      readonly lp: number;
      readonly pb: number;
      readonly mode: number;
      readonly niceLen: number;
      readonly mf: number;
      readonly depth: number;
    }
    const FILTER_LZMA1: string;
    const MODE_FAST: number;
    const MODE_NORMAL: number;
    const MF_HC4: number;
    const MF_BT4: number;
    function createStream(
      coder: 'rawEncoder',
      options: {
        readonly synchronous: boolean;
        readonly filters: readonly { readonly id: string; readonly options: LzmaFilterOptions }[];
      },
    ): Transform;
  }
  export = lzma;
}

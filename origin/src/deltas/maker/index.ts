export { composeDelta, composedWindow } from './compose-delta.ts';
export { makeDelta } from './make-delta.ts';
export {
  type ComposedWindow,
  deltaCosts,
  type DeltaRequest,
  type ImageSource,
  type MadeWindow,
  MAX_DELTA_PATCH_BYTES,
  type WindowPlace,
} from '../maker-port.ts';
export { patchFrames } from '../patch-frames.ts';
export type { WindowSizes } from './windows.ts';

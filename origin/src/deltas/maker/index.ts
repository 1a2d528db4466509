export { type ComposedDelta, type ComposedWindow, composeDelta } from './compose-delta.ts';
export { makeDelta } from './make-delta.ts';
export {
  deltaCosts,
  type DeltaRequest,
  type ImageSource,
  type MadeWindow,
  MAX_DELTA_PATCH_BYTES,
  type WindowPlace,
} from '../maker-port.ts';
export type { WindowSizes } from './windows.ts';

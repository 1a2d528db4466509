export { type ComposedDelta, type ComposedWindow, composeDelta } from './compose-delta.ts';
export { type DeltaRequest, type ImageSource, type MadeWindow, makeDelta } from './make-delta.ts';
export type { WindowPlace } from '../maker-port.ts';
export type { WindowSizes } from './windows.ts';

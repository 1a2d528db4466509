export { type ComposedDelta, type ComposedWindow, composeDelta } from './compose-delta.ts';
export { makeDelta } from './make-delta.ts';
export type { ImageSource } from '../maker-port.ts';
export type { WindowSizes } from './windows.ts';

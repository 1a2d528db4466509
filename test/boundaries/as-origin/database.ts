// A seeded violation: see check.mjs.
export { ClassicLevel } from 'classic-level';

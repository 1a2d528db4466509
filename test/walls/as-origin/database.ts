// A seeded breach: see check.mjs.
export { ClassicLevel } from 'classic-level';

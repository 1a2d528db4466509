/** V8 knows a class's shape for good once so many of its instances were made. */
const INSTANCES = 20;
const kept: object[] = [];

/**
 * Keeps instances of a class whose hot methods run between forced collections. Where its last instance is collected, V8 throws away the code
 * that it has optimized for their shape, and optimizes it anew for each patch.
 */
export function keepAlive(create: () => object): void {
  kept.push(...Array.from({ length: INSTANCES }, create));
}

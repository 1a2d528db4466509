/** V8 treats a class's shape as stable once this many instances were made. */
const INSTANCES = 20;
const kept: object[] = [];

/**
 * Keeps instances of a class whose hot methods run between forced collections. When the last instance of a class is collected, V8 discards
 * the code that it has optimized for it, and would optimize it anew for each patch.
 */
export function keepAlive(create: () => object): void {
  kept.push(...Array.from({ length: INSTANCES }, create));
}

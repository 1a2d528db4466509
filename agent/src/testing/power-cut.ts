import { type Failpoint, killAt } from '../adapters/failpoints.ts';

/** Thrown where the power goes. Nothing of the agent catches it for good. */
export class PowerCut extends Error {}

/**
 * The power goes where `killAt` says so. From then on each failpoint throws: nothing is written any more.
 */
export function powerCutAt(where: string): Failpoint {
  let isOff = false;
  const failpoint = killAt(where, () => {
    isOff = true;
  });
  return name => {
    failpoint(name);
    if (isOff) throw new PowerCut(`the power went at ${where}`);
  };
}

/** Runs until it ends or the power goes. @returns whether the power went */
export async function untilPowerCut(work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return false;
  } catch (error) {
    if (error instanceof PowerCut) return true;
    throw error;
  }
}

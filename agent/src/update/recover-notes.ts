import { SitecastError } from '@sitecast/shared/errors';
import type { SlotRecord } from '../state/agent-state.ts';
import { rebuiltState } from '../state/rebuild.ts';
import { compareWithIndex } from './missing-chunks.ts';
import { type BootState, type Log, otherSlot, type Slot, type SlotName, type SlotReader } from '../ports.ts';
import type { StateFile, StateLoss } from '../state/state-file.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';
import type { Outbox } from '../reports/outbox.ts';
import type { Reporter } from '../reports/reporter.ts';

interface RecoveryDependencies {
  stateFile: StateFile;
  outbox: Pick<Outbox, 'newest' | 'recent'>;
  slots: Readonly<Record<SlotName, Slot>>;
  /** The agent's own directory. */
  data: string;
  reporter: Reporter;
  log: Log;
  stop: AbortSignal;
}

/**
 * Rebuilds lost notes of the agent (`state.json`) or of its boot control from the reports, the boot control and the slots. Either
 * loss is logged and reported.
 */
export async function recoverNotes(deps: RecoveryDependencies, boot: BootState): Promise<void> {
  const { stateFile, outbox } = deps;
  const loss =
    stateFile.loss ??
    (stateFile.isNew && outbox.newest ? { what: 'state.json was missing', kept: undefined } : undefined);
  if (loss) await recoverState(deps, boot, loss);
  if (boot.lost !== undefined)
    await report(
      deps,
      'SITECAST_BOOT_STATE_INVALID',
      `${boot.lost}; slot ${boot.booted} is taken for the one that runs`,
    );
}

async function recoverState(deps: RecoveryDependencies, boot: BootState, loss: StateLoss): Promise<void> {
  const { stateFile, outbox } = deps;
  const other = await otherRecord(deps, otherSlot(boot.booted), loss);
  const rebuilt = rebuiltState({ boot, reports: outbox.recent(), kept: loss.kept, other });
  await stateFile.change(rebuilt);
  const from = loss.kept ? 'its copy and the newest reports' : 'the newest reports';
  await report(deps, 'SITECAST_STATE_INVALID', `${loss.what}; it is made up anew, from ${from}`);
}

/**
 * Restores the other slot's record from the copy of its index. The copy counts only if the slot holds that image: an agent of an earlier
 * version, which keeps no copy, may have written there.
 */
async function otherRecord(
  deps: RecoveryDependencies,
  name: SlotName,
  { kept }: StateLoss,
): Promise<SlotRecord> {
  const record = kept?.slots[name];
  try {
    const reader = await deps.slots[name].openForReading();
    if (!reader) return { state: 'empty' };
    try {
      const isRight = record !== undefined && (await holds(deps, name, record, reader));
      return isRight ? { ...record, state: 'verified' } : { state: 'bad' };
    } finally {
      await reader.close();
    }
  } catch (error) {
    // An unreadable slot counts as bad. The next update reports why it can't be read.
    if (error instanceof SitecastError) return { state: 'bad' };
    throw error;
  }
}

async function holds(
  { data, stop }: RecoveryDependencies,
  name: SlotName,
  { indexSha256 }: SlotRecord,
  reader: SlotReader,
): Promise<boolean> {
  if (indexSha256 === undefined) return false;
  const index = await new SlotIndexFile(data, name).read(indexSha256);
  return index !== undefined && (await compareWithIndex(index, reader, { signal: stop })).count === 0;
}

async function report({ reporter, log }: RecoveryDependencies, code: string, message: string): Promise<void> {
  log('error', message, { code });
  await reporter.report('idle', { reason: { code, message } });
}

import { SitecastError } from '@sitecast/shared/errors';
import type { SlotRecord } from '../state/agent-state.ts';
import { rebuiltState } from '../state/rebuild.ts';
import { compareWithIndex } from './compare.ts';
import { type BootState, otherSlot, type SlotName, type SlotReader } from '../ports.ts';
import type { StateLoss } from '../state/state-file.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';
import type { AgentParts } from './parts.ts';

/**
 * What the agent or its boot control had noted may be lost: a device goes on all the same, from what its reports, its boot
 * control and its slots tell. Both is said, in the log and to the origin.
 */
export async function recoverNotes(parts: AgentParts, boot: BootState): Promise<void> {
  const { stateFile, outbox } = parts;
  const loss =
    stateFile.loss ??
    (stateFile.isNew && outbox.newest ? { what: 'state.json was missing', kept: undefined } : undefined);
  if (loss) await recoverState(parts, boot, loss);
  if (boot.lost !== undefined)
    await tell(
      parts,
      'SITECAST_BOOT_STATE_INVALID',
      `${boot.lost}; slot ${boot.booted} is taken for the one that runs`,
    );
}

async function recoverState(parts: AgentParts, boot: BootState, loss: StateLoss): Promise<void> {
  const { stateFile, outbox } = parts;
  const other = await otherRecord(parts, otherSlot(boot.booted), loss);
  const rebuilt = rebuiltState({ boot, reports: outbox.recent(), kept: loss.kept, other });
  await stateFile.change(rebuilt);
  const from = loss.kept ? 'its copy and the newest reports' : 'the newest reports';
  await tell(parts, 'SITECAST_STATE_INVALID', `${loss.what}; it is made up anew, from ${from}`);
}

/** What the copy says is right only if the slot holds it: another release, which kept no copy, may have written there. */
async function otherRecord(parts: AgentParts, name: SlotName, { kept }: StateLoss): Promise<SlotRecord> {
  const record = kept?.slots[name];
  try {
    const reader = await parts.slots[name].openForReading();
    if (!reader) return { state: 'empty' };
    try {
      const isRight = record !== undefined && (await holds(parts, name, record, reader));
      return isRight ? { ...record, state: 'verified' } : { state: 'bad' };
    } finally {
      await reader.close();
    }
  } catch (error) {
    // A slot that can't be read is no good at present; an update will say what's wrong with it.
    if (error instanceof SitecastError) return { state: 'bad' };
    throw error;
  }
}

async function holds(
  { settings, stop }: AgentParts,
  name: SlotName,
  { indexSha256 }: SlotRecord,
  reader: SlotReader,
): Promise<boolean> {
  if (indexSha256 === undefined) return false;
  const index = await new SlotIndexFile(settings.data, name).read(indexSha256);
  return index !== undefined && (await compareWithIndex(index, reader, { signal: stop })).count === 0;
}

async function tell({ reporter, log }: AgentParts, code: string, message: string): Promise<void> {
  log('error', message, { code });
  await reporter.report('idle', { reason: { code, message } });
}

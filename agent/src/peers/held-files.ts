import { type HeldFiles, SLOT_NAMES, type SlotName } from '../ports.ts';
import type { SlotRecord } from '../state/agent-state.ts';
import { SlotIndexFile } from '../state/slot-index-file.ts';
import type { Trust } from '../upstream/trust.ts';

/** A target's path in a consistent snapshot: folders, then the digest of its bytes before its name. */
const TARGET_PATH = /^(?:[^/]+\/)*([0-9a-f]{64})\.[^/]+$/;

interface HeldFilesOptions {
  trust: Pick<Trust, 'heldMetadata' | 'heldDocument'>;
  /** The agent's own directory. */
  directory: string;
  slots: () => Readonly<Record<SlotName, SlotRecord>>;
}

/** The signed files that this device can serve: its trusted metadata, documents, and the indexes of its slots. */
export function heldFiles({ trust, directory, slots }: HeldFilesOptions): HeldFiles {
  return {
    metadata: path => trust.heldMetadata(path),
    target: async path => {
      const sha256 = TARGET_PATH.exec(path)?.[1];
      if (sha256 === undefined) return undefined;
      return (await trust.heldDocument(sha256)) ?? indexOfSlot(sha256);
    },
  };

  /** An index that was rebuilt by a recipe was never fetched, so it is stored only with its slot. */
  async function indexOfSlot(sha256: string): Promise<Uint8Array | undefined> {
    for (const name of SLOT_NAMES) {
      if (slots()[name].indexSha256 !== sha256) continue;
      const index = await new SlotIndexFile(directory, name).read(sha256);
      if (index) return index.encode();
    }
    return undefined;
  }
}

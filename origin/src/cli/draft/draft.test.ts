import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseReleaseManifest, serializeFile } from '@sitecast/shared/release';
import {
  firstRoot,
  firstTargets,
  KeyPair,
  nextVersion,
  targetFileOf,
  withOperatorKeys,
} from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  addSignatures,
  type Draft,
  isComplete,
  neededSignatures,
  newDraft,
  readDraft,
  textOf,
  wantedKeyIds,
  writeDraft,
} from './draft.ts';
import { requireFirst, requireNext } from './base.ts';
import { summarizeDraft } from './summary.ts';
import { textOf as textOfLines } from '../output.ts';

const [alice, bob, carol, dave, release, release2, ...originKeys] = Array.from({ length: 10 }, () =>
  KeyPair.generate(),
);
const keyOf = (pair: KeyPair | undefined): KeyPair => {
  if (!pair) throw new Error('too few key pairs');
  return pair;
};
const [timestamp, snapshot, rollouts, deltas] = originKeys.map(pair => pair.key);
if (!timestamp || !snapshot || !rollouts || !deltas) throw new Error('too few key pairs');
const now = Date.parse('2030-01-01T00:00:00Z');
const online = { timestamp, snapshot, rollouts, deltas };
const root = firstRoot(
  { keys: [keyOf(alice).key, keyOf(bob).key, keyOf(carol).key], threshold: 2 },
  { keys: [keyOf(release).key, keyOf(release2).key], threshold: 2 },
  online,
  now,
);
const targets = firstTargets(online, now);

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-draft-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const have = (draft: Draft, trusted = root) =>
  neededSignatures(draft, trusted).map(({ by, have }) => `${by} ${have}`);

describe('a draft that goes from one key holder to the next', () => {
  it('collects signatures through its file until the threshold is met', async () => {
    const path = join(directory, 'draft.json');
    const file = Buffer.from('{}');
    const next = nextVersion(targets, now);
    next.targets['products/camera.json'] = targetFileOf(file);
    await writeDraft(path, newDraft('x', { targets: next }, [['products/camera.json', file]]));
    for (const [holder, expected] of [
      [release, 1],
      [release, 1],
      [release2, 2],
    ] as const) {
      const draft = await readDraft(path);
      expect(isComplete(neededSignatures(draft, root))).toBe(false);
      expect(await addSignatures(draft, keyOf(holder), root)).toBe(1);
      expect(have(draft)).toEqual([`release ${expected}`]);
      await writeDraft(path, draft);
    }
    const draft = await readDraft(path);
    expect(isComplete(neededSignatures(draft, root))).toBe(true);
    expect(draft.files.get('products/camera.json')).toEqual(file);
    expect(draft.targets?.signed).toEqual(next);
  });

  it("needs signatures by the old root's keys and the new root's for a new root", async () => {
    const draft = newDraft('x', {
      root: withOperatorKeys(
        root,
        'root',
        { add: [keyOf(dave).key], remove: [keyOf(bob).keyId, keyOf(alice).keyId], threshold: 2 },
        now,
      ),
    });
    await addSignatures(draft, keyOf(carol), root);
    await addSignatures(draft, keyOf(dave), root);
    expect(have(draft)).toEqual(['root 2', 'old root 1']);
    expect(wantedKeyIds(neededSignatures(draft, root))).toContain(keyOf(alice).keyId);
    await addSignatures(draft, keyOf(alice), root);
    expect(have(draft)).toEqual(['root 2', 'old root 2']);
  });

  it('needs targets signed by the release keys of its own root', async () => {
    const draft = newDraft('x', {
      root: withOperatorKeys(
        root,
        'release',
        { add: [keyOf(dave).key], remove: [keyOf(release).keyId] },
        now,
      ),
      targets: nextVersion(targets, now),
    });
    expect(await addSignatures(draft, keyOf(release), root)).toBe(0);
    expect(await addSignatures(draft, keyOf(dave), root)).toBe(1);
    expect(have(draft)).toEqual(['root 0', 'old root 0', 'release 1']);
  });

  it('accepts no signature from a key without a role', async () => {
    const draft = newDraft('x', { targets: nextVersion(targets, now) });
    expect(await addSignatures(draft, keyOf(alice), root)).toBe(0);
    expect(draft.targets?.signatures).toEqual([]);
  });
});

describe('the versions of a draft', () => {
  const published = { root: nextVersion(root, now), targets: nextVersion(nextVersion(targets, now), now) };
  const draftOf = (versions: { root?: number; targets?: number }): Draft =>
    newDraft('x', {
      root:
        versions.root === undefined
          ? undefined
          : { ...published.root, version: versions.root, expires: later },
      targets:
        versions.targets === undefined
          ? undefined
          : { ...published.targets, version: versions.targets, expires: later },
    });
  const later = '2032-01-01T00:00:00Z';
  const conflict = expect.objectContaining({ code: 'SITECAST_VERSION_CONFLICT', kind: 'conflict' });

  it.each([
    [{ targets: 1 }, true],
    [{ targets: 3 }, true],
    [{ targets: 3 }, false],
    [{ targets: 5 }, true],
    [{ root: 1 }, true],
    [{ root: 2 }, false],
    [{ root: 4 }, false],
    [{ root: 3, targets: 3 }, true],
  ])('%j are refused, with the newest known: %j', (versions, isNewest) => {
    expect(() => requireNext(draftOf(versions), published, { isNewest })).toThrow(conflict);
  });

  it.each([
    [{ targets: 4 }, true],
    [{ targets: 4 }, false],
    [{ targets: 9 }, false],
    [{ root: 3 }, true],
    [{ root: 3, targets: 4 }, false],
  ])('%j are accepted, with the newest known: %j', (versions, isNewest) => {
    expect(requireNext(draftOf(versions), published, { isNewest })).toBe(true);
  });

  it('are recognised as those published already', () => {
    expect(requireNext(newDraft('x', published), published, { isNewest: true })).toBe(false);
  });

  it('found no repository where the targets could follow those of another one', () => {
    expect(() => requireFirst(newDraft('x', { root, targets: nextVersion(targets, now) }))).toThrow(conflict);
    expect(() => requireFirst(newDraft('x', { root, targets }))).not.toThrow();
  });
});

describe('a draft file', () => {
  it('replaces an earlier draft and no other file, such as the trusted root', async () => {
    const path = join(directory, 'root.json');
    const draft = newDraft('x', { root: nextVersion(root, now) });
    const anchor = draft.root ? textOf(draft.root) : '';
    await writeFile(path, anchor);
    await expect(writeDraft(path, draft)).rejects.toMatchObject({
      code: 'SITECAST_FILE_EXISTS',
      kind: 'conflict',
    });
    expect(await readFile(path, 'utf8')).toBe(anchor);
    await rm(path);
    await writeDraft(path, draft);
    await writeDraft(path, { ...draft, title: 'y' });
    expect((await readDraft(path)).title).toBe('y');
  });

  it.each([
    ['text', 'not JSON'],
    ['another format', '{"format":"sitecast-draft-9","title":"","files":{}}'],
    ['files that are not base64', '{"format":"sitecast-draft-1","title":"","files":{"a":"%"}}'],
  ])('of %s is refused', async (_what, text) => {
    const path = join(directory, 'draft.json');
    await writeFile(path, text);
    await expect(readDraft(path)).rejects.toMatchObject({ code: 'SITECAST_DRAFT_INVALID' });
  });

  it('with metadata of another kind than it declares is refused', async () => {
    const path = join(directory, 'draft.json');
    await writeFile(
      path,
      JSON.stringify({ format: 'sitecast-draft-1', title: '', root: '{"signed":{}}', files: {} }),
    );
    await expect(readDraft(path)).rejects.toMatchObject({ code: 'SITECAST_METADATA_MALFORMED' });
  });
});

describe('the summary that a signer sees', () => {
  const manifest = serializeFile({
    format: 'sitecast-release-1',
    product: 'camera',
    counter: 2,
    version: '2.0.0',
    hardware: ['rpi4'],
    image: { lengthBytes: 2048, sha256: 'a'.repeat(64), chunks: 1 },
    index: { sha256: 'b'.repeat(64), lengthBytes: 1 },
    createdAt: '2030-01-01T00:00:00Z',
  });
  const next = nextVersion(targets, now);
  next.targets['releases/camera-2.json'] = targetFileOf(manifest);

  it('lists what is added, read from the bytes to be signed', () => {
    const draft = newDraft('harmless', { targets: next }, [['releases/camera-2.json', manifest]]);
    const text = summarizeDraft(draft, { root, targets }).join('\n');
    expect(text).toContain('adds release camera 2.0.0 (counter 2) for rpi4: 2.0 KiB, SHA-256 aaaa');
    expect(text).not.toContain('rollouts');
  });

  it('names releases of a delta whose versions are not known here as what they are', () => {
    const before = structuredClone(targets);
    before.targets['deltas/camera-2-from-1.recipe'] = targetFileOf(Buffer.from('recipe'));
    const shown = summarizeDraft(newDraft('x', { targets: nextVersion(targets, now) }, []), {
      root,
      targets: before,
    });
    expect(shown).toContain(
      '  removes the delta of camera from the release with counter 1 to the release with counter 2',
    );
  });

  it('shows the notes that are signed with a release, marked so that no line looks like its own', () => {
    const notes = `fixes\n  withdraws release camera 1.0.0 (counter 1)\u200b\r\n\u001b[2J\u2028done${'\nx'.repeat(50)}`;
    const noted = serializeFile({ ...parseReleaseManifest(manifest), notes });
    const after = nextVersion(targets, now);
    after.targets['releases/camera-2.json'] = targetFileOf(noted);
    const draft = newDraft('x', { targets: after }, [['releases/camera-2.json', noted]]);
    const shown = textOfLines(summarizeDraft(draft, { root, targets })).split('\n');
    expect(shown.slice(2, 6)).toEqual([
      '    its notes:',
      '    | fixes',
      '    |   withdraws release camera 1.0.0 (counter 1)\ufffd',
      '    | \ufffd[2J ↵ done',
    ]);
    expect(shown.at(-2)).toBe('    … and 13 lines more');
    expect(shown.filter(line => line.startsWith('  withdraws'))).toEqual([]);
  });

  it('lists a withdrawn release once, by its product and version', () => {
    const product = serializeFile({
      format: 'sitecast-product-1',
      product: 'camera',
      hardware: ['rpi4'],
      lastCounter: 2,
      floor: { counter: 0 },
      withdrawn: [{ counter: 2, version: '2.0.0' }],
    });
    const before = structuredClone(next);
    before.targets['releases/camera-2.caibx'] = targetFileOf(Buffer.from('index'));
    const after = nextVersion(targets, now);
    after.targets['products/camera.json'] = targetFileOf(product);
    const draft = newDraft('x', { targets: after }, [['products/camera.json', product]]);
    const lines = summarizeDraft(draft, { root, targets: before });
    expect(lines).toContain('  withdraws release camera 2.0.0 (counter 2)');
    expect(lines.join('\n')).not.toContain('releases/');
  });

  it('refuses a draft whose files differ from those that would be signed', () => {
    const other = Buffer.from(manifest.toString().replace('2.0.0', '1.9.9'));
    for (const files of [[], [['releases/camera-2.json', other]]] as [string, Buffer][][]) {
      expect(() => summarizeDraft(newDraft('x', { targets: next }, files), { root, targets })).toThrow(
        expect.objectContaining({ code: 'SITECAST_DRAFT_INVALID' }),
      );
    }
  });

  it('shows removed files, delegations to other keys, and keys and thresholds of a new root', () => {
    const hijacked = nextVersion(targets, now);
    const [role] = hijacked.delegations?.roles ?? [];
    Object.assign(role ?? {}, { keyids: ['f'.repeat(64)], paths: ['*'], threshold: 7 });
    hijacked.delegations?.roles?.pop();
    const shown = summarizeDraft(newDraft('x', { targets: hijacked }), { root, targets: next }).join('\n');
    expect(shown).toContain('withdraws release camera of an unknown version (counter 2)');
    expect(shown).toContain('rollouts: + key ffff');
    expect(shown).toContain('rollouts may sign *');
    expect(shown).toContain('rollouts: 7 of 1 must sign');
    expect(shown).toContain('deltas may sign nothing any more');
    const lowered = withOperatorKeys(root, 'root', { remove: [keyOf(bob).keyId], threshold: 1 }, now);
    const rootShown = summarizeDraft(newDraft('x', { root: lowered }), { root, targets }).join('\n');
    expect(rootShown).toContain(`root: - key ${keyOf(bob).keyId.slice(0, 16)}`);
    expect(rootShown).toContain('root: 1 of 2 must sign (was 2)');
  });

  it('refuses a key that is listed under the id of another one', () => {
    const masked = nextVersion(root, now);
    masked.keys[keyOf(alice).keyId] = keyOf(dave).key;
    expect(() => summarizeDraft(newDraft('x', { root: masked }), { root, targets })).toThrow(
      /isn't that key/,
    );
  });
});

import { beforeEach, describe, expect, it } from 'vitest';
import type { TufClient } from './client.ts';
import { DEFAULT_TRUST_LIMITS } from './limits.ts';
import type { TopLevelRole } from './metadata.ts';
import { canonicalBytes, signOne } from './signing.ts';
import { MemoryMetadataStore } from './stores.ts';
import {
  ENDLESS,
  newSigner,
  openTestClient,
  refreshedTestClient,
  TestRepository,
  trustedVersions,
} from './testing/index.ts';

const LISTED = ['snapshot', 'targets'] as const;
const NOT_ROOT = ['timestamp', ...LISTED] as const;
const refusal = (code: string, data: Record<string, unknown> = {}) =>
  expect.objectContaining({ code, data: expect.objectContaining(data) });

/** Every file is signed correctly, except for the one thing that a test changes. */
describe('a repository under attack', () => {
  let repository: TestRepository;
  let store: MemoryMetadataStore;

  beforeEach(async () => {
    repository = await TestRepository.create();
    store = new MemoryMetadataStore();
    repository.delegate('targets', 'team', { paths: ['team/*'] });
    repository.addTarget('team', 'team/file', 'content');
    await repository.publish('team');
    await repository.publishWithSnapshot('targets');
  });

  const refresh = async (): Promise<TufClient> => refreshedTestClient(repository, { store });
  const lookUp = async () => (await refresh()).findTarget('team/file');
  /** Serves correct files again: the client must recover from what it saw. */
  const expectRecovery = async (): Promise<void> => {
    const client = await refresh();
    const found = await client.findTarget('team/file');
    expect(found && Buffer.from(await client.fetchTarget(found)).toString()).toBe('content');
  };

  describe('signatures', () => {
    it.each(NOT_ROOT)('refuses a %s below the threshold', async role => {
      const signers = [newSigner(), newSigner()];
      repository.setSigners(role, signers);
      await repository.publish('root');
      repository.signers.set(role, signers.slice(1));
      await repository.publishWithSnapshot('targets');
      await expect(refresh()).rejects.toThrow(
        refusal('SITECAST_SIGNATURES_MISSING', { role, valid: 1, threshold: 2 }),
      );
      repository.signers.set(role, signers);
      await repository.publishWithSnapshot('targets');
      await expectRecovery();
    });

    it('refuses a delegated role below the threshold', async () => {
      await expect(lookUp()).resolves.toBeDefined();
      const [team] = repository.targets.delegations?.roles ?? [];
      if (team) team.threshold = 2;
      await repository.publish('team');
      await repository.publishWithSnapshot('targets');
      await expect(lookUp()).rejects.toThrow(
        refusal('SITECAST_SIGNATURES_MISSING', { role: 'team', step: '5.6.3', valid: 1, threshold: 2 }),
      );
    });

    it.each([...NOT_ROOT, 'root', 'team'] as const)(
      'counts one key under two key ids once, for %s',
      async role => {
        const signer = newSigner();
        const alias = { ...signer, keyId: 'ab'.repeat(32) };
        if (role === 'team') {
          repository.targets.delegations = { keys: {}, roles: [] };
          repository.delegate('targets', 'team', { paths: ['team/*'] }, [signer, alias]);
          await repository.publish('team');
        } else if (role === 'root') {
          const before = repository.signers.get('root') ?? [];
          repository.setSigners('root', [signer, alias]);
          repository.signers.set('root', [...before, signer, alias]);
          await repository.publish('root');
        } else {
          repository.setSigners(role, [signer, alias]);
          await repository.publish('root');
        }
        await repository.publishWithSnapshot('targets');
        await expect(lookUp()).rejects.toThrow(
          refusal('SITECAST_SIGNATURES_MISSING', { role, valid: 1, threshold: 2 }),
        );
      },
    );

    it('refuses two signatures under one key id', async () => {
      const [signer = newSigner()] = repository.signers.get('timestamp') ?? [];
      repository.signers.set('timestamp', [signer, signer]);
      await repository.publish('timestamp');
      await expect(refresh()).rejects.toThrow(refusal('SITECAST_METADATA_MALFORMED'));
    });

    it('accepts keys of unknown types, odd signatures and unrecognised fields', async () => {
      const [signer = newSigner()] = repository.signers.get('snapshot') ?? [];
      const unknown = { keytype: 'falcon', scheme: 'falcon-9', keyval: { public: 'x', extra: [1] } };
      Object.assign(repository.root.keys, { mystery: { ...unknown, 'x-owner': '@somebody' } });
      repository.root.roles.snapshot.keyids.push('mystery');
      Object.assign(repository.root, { 'x-field': { nested: [null, true] } });
      Object.assign(repository.root.roles.targets, { 'x-field': 1 });
      Object.assign(repository.snapshot, { 'x-field': 'ü' });
      Object.assign(repository.targets.targets, {
        odd: { length: 1, hashes: { 'sha3-256': 'aa' }, custom: { any: ['thing'] } },
      });
      repository.signers.set('snapshot', [
        { ...signer, keyId: 'mystery', sign: async () => new Uint8Array() },
        signer,
      ]);
      await repository.publish('root');
      await repository.publishWithSnapshot('targets');
      await expectRecovery();
      const client = await refresh();
      const odd = await client.findTarget('odd');
      expect(odd?.file.custom).toEqual({ any: ['thing'] });
      repository.files.set('targets/odd', Buffer.from('a'));
      await expect(odd && client.fetchTarget(odd)).rejects.toThrow(refusal('SITECAST_TARGET_MISMATCH'));
    });
  });

  describe('rollback', () => {
    it('of the timestamp is refused', async () => {
      const old = repository.bytesOf('timestamp');
      await repository.publish('timestamp');
      await refresh();
      repository.files.set(repository.pathOf('timestamp'), old);
      await expect(refresh()).rejects.toThrow(
        refusal('SITECAST_METADATA_ROLLBACK', { role: 'timestamp', step: '5.4.3.1' }),
      );
    });

    it('of the whole repository is refused', async () => {
      const old = repository.snapshotOfFiles();
      await repository.publishWithSnapshot('targets');
      await refresh();
      for (const [path, bytes] of old) repository.files.set(path, bytes);
      await expect(refresh()).rejects.toThrow(refusal('SITECAST_METADATA_ROLLBACK', { role: 'timestamp' }));
    });

    it('by other content under the trusted version is ignored', async () => {
      await refresh();
      const trusted = repository.bytesOf('timestamp');
      repository.timestamp.meta['snapshot.json'].version = 100;
      await repository.layOut('timestamp');
      await refresh();
      expect(store.files.get('timestamp.json')).toEqual(trusted);
    });

    it('of the snapshot in a newer timestamp is refused', async () => {
      await repository.publish('snapshot', 'timestamp');
      await refresh();
      repository.timestamp.meta['snapshot.json'].version -= 1;
      await repository.publish('timestamp');
      const refused = refusal('SITECAST_METADATA_ROLLBACK', { role: 'snapshot', step: '5.4.3.2' });
      await expect(refresh()).rejects.toThrow(refused);
      // It is refused also where the stored timestamp was lost.
      store.files.delete('timestamp.json');
      await expect(refresh()).rejects.toThrow(refused);
    });

    it.each(['targets', 'team'])('of %s in a newer snapshot is refused', async role => {
      await repository.publish('team');
      await repository.publishWithSnapshot('targets');
      await lookUp();
      const file = repository.snapshot.meta[`${role}.json`];
      if (file) file.version -= 1;
      await repository.publish('snapshot', 'timestamp');
      await expect(refresh()).rejects.toThrow(refusal('SITECAST_METADATA_ROLLBACK', { role, step: '5.5.5' }));
      expect(trustedVersions(await openTestClient(repository, { store }))).toEqual([1, 4, 3, 3]);
    });

    it('by dropping a role from the snapshot is refused', async () => {
      await refresh();
      delete repository.snapshot.meta['team.json'];
      await repository.publish('snapshot', 'timestamp');
      await expect(refresh()).rejects.toThrow(
        refusal('SITECAST_ROLE_DROPPED', { role: 'team', step: '5.5.5' }),
      );
    });

    it('by a role that the snapshot never listed: its targets are not found', async () => {
      delete repository.snapshot.meta['team.json'];
      await repository.publish('snapshot', 'timestamp');
      await expect(lookUp()).rejects.toThrow(refusal('SITECAST_METADATA_MISSING', { role: 'team' }));
      expect(repository.requests.at(-1)).not.toContain('team');
    });
  });

  describe('freeze', () => {
    it.each([
      ['root', '5.3.10'],
      ['timestamp', '5.4.4'],
      ['snapshot', '5.5.6'],
      ['targets', '5.6.5'],
      ['team', '5.6.5'],
    ] as const)('by an expired %s is refused', async (role, step) => {
      await lookUp();
      const signed = role === 'team' ? repository.targetsOf('team') : repository[role];
      signed.expires = repository.inDays(0);
      await repository.publish(...(role === 'root' || role === 'team' ? [role] : []));
      await repository.publishWithSnapshot('targets');
      await expect(lookUp()).rejects.toThrow(refusal('SITECAST_METADATA_EXPIRED', { role, step }));
      // Of all expired files only the root is stored, because it leads to the next root (5.3.8).
      const isKept = Buffer.from(repository.bytesOf(role)).equals(
        store.files.get(`${role}.json`) ?? Buffer.of(),
      );
      expect(isKept).toBe(role === 'root');
      signed.expires = repository.inDays(1);
      await repository.publish(...(role === 'root' || role === 'team' ? [role] : []));
      await repository.publishWithSnapshot('targets');
      await expectRecovery();
    });

    it.each(['root', 'timestamp', 'snapshot', 'targets', 'team'] as const)(
      'by withholding everything newer than a %s that has expired since is refused',
      async role => {
        const signed = role === 'team' ? repository.targetsOf('team') : repository[role];
        signed.expires = repository.inDays(7);
        await repository.publish(...(role === 'root' || role === 'team' ? [role] : []));
        await repository.publishWithSnapshot('targets');
        await lookUp();
        const nowMs = repository.nowMs + 8 * 86_400_000;
        const later = async () =>
          (await refreshedTestClient(repository, { store, nowMs })).findTarget('team/file');
        await expect(later()).rejects.toThrow(refusal('SITECAST_METADATA_EXPIRED', { role }));
      },
    );

    it('is refused from the exact moment of the expiry, not before', async () => {
      const expiryMs = Date.parse(repository.inDays(30));
      await refreshedTestClient(repository, { store, nowMs: expiryMs - 1 });
      await expect(refreshedTestClient(repository, { store, nowMs: expiryMs })).rejects.toThrow(
        refusal('SITECAST_METADATA_EXPIRED'),
      );
    });
  });

  describe('wrong files', () => {
    it.each(LISTED)('refuses a %s of a version other than the announced one (mix and match)', async role => {
      const old = repository.bytesOf(role);
      await repository.publishWithSnapshot('targets');
      repository.files.set(repository.pathOf(role), old);
      await expect(refresh()).rejects.toThrow(refusal('SITECAST_METADATA_MISMATCH', { role }));
    });

    it('refuses a delegated role of a version other than the announced one', async () => {
      const old = repository.bytesOf('team');
      await repository.publish('team');
      await repository.publishWithSnapshot('targets');
      repository.files.set(repository.pathOf('team'), old);
      await expect(lookUp()).rejects.toThrow(
        refusal('SITECAST_METADATA_MISMATCH', { role: 'team', step: '5.6.4' }),
      );
    });

    it.each([
      ['snapshot', '5.5.2'],
      ['targets', '5.6.2'],
      ['team', '5.6.2'],
    ])('refuses a %s with a wrong hash or length, though it is signed correctly', async (role, step) => {
      repository.listsHashes = true;
      await repository.publish('team');
      await repository.publishWithSnapshot('targets');
      const honest = repository.bytesOf(role);
      const signed = JSON.parse(Buffer.from(honest).toString());
      const sameLength = Buffer.from(Buffer.from(honest).toString().replace(/\n$/, ' '));
      const shorter = Buffer.from(JSON.stringify(signed));
      for (const other of [sameLength, shorter]) {
        repository.files.set(repository.pathOf(role), other);
        await expect(lookUp()).rejects.toThrow(refusal('SITECAST_METADATA_MISMATCH', { role, step }));
      }
      repository.files.set(repository.pathOf(role), Buffer.concat([honest, Buffer.from(' ')]));
      await expect(lookUp()).rejects.toThrow(refusal('SITECAST_DOWNLOAD_TOO_LARGE'));
      repository.files.set(repository.pathOf(role), honest);
      await expectRecovery();
    });

    it('refuses a target file with a wrong hash or length', async () => {
      const client = await refresh();
      const found = await client.findTarget('team/file');
      const path = [...repository.files.keys()].find(name => name.endsWith('.file')) ?? '';
      for (const [content, code] of [
        ['CONTENT', 'SITECAST_TARGET_MISMATCH'],
        ['conten', 'SITECAST_TARGET_MISMATCH'],
        ['content ', 'SITECAST_DOWNLOAD_TOO_LARGE'],
      ] as const) {
        repository.files.set(path, Buffer.from(content));
        await expect(found && client.fetchTarget(found)).rejects.toThrow(refusal(code));
      }
      repository.files.delete(path);
      await expect(found && client.fetchTarget(found)).rejects.toThrow(refusal('SITECAST_TARGET_MISSING'));
    });

    it.each(['../root', 'a/../../b', './a', 'a//b', '/a', 'a/'])(
      'requests no target file called %j',
      async name => {
        repository.targets.targets[name] = { length: 1, hashes: { sha256: 'aa' } };
        await repository.publishWithSnapshot('targets');
        const client = await refresh();
        const found = await client.findTarget(name);
        await expect(found && client.fetchTarget(found)).rejects.toThrow(
          refusal('SITECAST_TARGET_NAME_REFUSED'),
        );
      },
    );

    it('refuses one role in place of another', async () => {
      // The same key signs both, so only the type tells them apart.
      const [signer = newSigner()] = repository.signers.get('timestamp') ?? [];
      repository.setSigners('snapshot', [signer]);
      await repository.publish('root');
      await repository.publishWithSnapshot('targets');
      repository.files.set(repository.pathOf('timestamp'), repository.bytesOf('snapshot'));
      await expect(refresh()).rejects.toThrow(refusal('SITECAST_METADATA_MALFORMED', { type: 'timestamp' }));
    });

    it.each([...NOT_ROOT, 'team'])('names the missing file: %s', async role => {
      repository.files.delete(repository.pathOf(role));
      await expect(lookUp()).rejects.toThrow(refusal('SITECAST_METADATA_MISSING', { role }));
    });
  });

  describe('an endless file', () => {
    it.each(['root', ...NOT_ROOT, 'team'])('instead of %s is cut off', async role => {
      const path = role === 'root' ? 'metadata/2.root.json' : repository.pathOf(role);
      repository.files.set(path, ENDLESS);
      await expect(lookUp()).rejects.toThrow(refusal('SITECAST_DOWNLOAD_TOO_LARGE', { path }));
    });

    it('instead of a target file is cut off', async () => {
      const client = await refresh();
      const found = await client.findTarget('team/file');
      const path = [...repository.files.keys()].find(name => name.endsWith('.file')) ?? '';
      repository.files.set(path, ENDLESS);
      await expect(found && client.fetchTarget(found)).rejects.toThrow(
        refusal('SITECAST_DOWNLOAD_TOO_LARGE', { maxBytes: 7 }),
      );
    });

    it('is bounded by the client’s limits, whatever length the metadata announces', async () => {
      repository.timestamp.meta['snapshot.json'].length = Number.MAX_SAFE_INTEGER;
      repository.targets.targets['team/huge'] = {
        length: Number.MAX_SAFE_INTEGER,
        hashes: { sha256: 'aa'.repeat(32) },
      };
      await repository.publish('targets', 'snapshot');
      repository.timestamp.meta['snapshot.json'].length = Number.MAX_SAFE_INTEGER;
      await repository.publish('timestamp');
      repository.files.set(repository.pathOf('snapshot'), ENDLESS);
      const { maxSnapshotBytes, maxTargetFileBytes } = DEFAULT_TRUST_LIMITS;
      await expect(refresh()).rejects.toThrow(
        refusal('SITECAST_DOWNLOAD_TOO_LARGE', { maxBytes: maxSnapshotBytes }),
      );
      await repository.publish('snapshot', 'timestamp');
      const client = await refresh();
      const found = await client.findTarget('team/huge');
      repository.files.set(`targets/team/${'aa'.repeat(32)}.huge`, ENDLESS);
      await expect(found && client.fetchTarget(found)).rejects.toThrow(
        refusal('SITECAST_DOWNLOAD_TOO_LARGE', { maxBytes: maxTargetFileBytes }),
      );
    });

    it('stops at exactly the limit for a target file', async () => {
      const at = async (maxTargetFileBytes: number) => {
        const client = await refreshedTestClient(repository, { limits: { maxTargetFileBytes } });
        const found = await client.findTarget('team/file');
        return found && client.fetchTarget(found);
      };
      await expect(at(7)).resolves.toHaveLength(7);
      await expect(at(6)).rejects.toThrow(refusal('SITECAST_DOWNLOAD_TOO_LARGE', { maxBytes: 6 }));
    });

    it.each([
      ['root', 'maxRootBytes'],
      ['timestamp', 'maxTimestampBytes'],
      ['snapshot', 'maxSnapshotBytes'],
      ['targets', 'maxTargetsBytes'],
    ] as const)('stops at exactly the limit for %s', async (role, limit) => {
      Object.assign(repository.root, { 'x-more': 'than the first root has' });
      await repository.publish('root');
      const { length } = repository.bytesOf(role);
      const at = async (maxBytes: number) =>
        refreshedTestClient(repository, { limits: { [limit]: maxBytes } });
      await expect(at(length)).resolves.toBeDefined();
      await expect(at(length - 1)).rejects.toThrow(
        refusal('SITECAST_DOWNLOAD_TOO_LARGE', { maxBytes: length - 1 }),
      );
    });
  });

  describe('a difference that canonical JSON hides', () => {
    // The signature is over the canonical form of the value that a lenient parser would read.
    const publishRaw = async (role: Exclude<TopLevelRole, 'root'>, change: (json: string) => string) => {
      repository[role].version += 1;
      const text = change(JSON.stringify(repository[role]));
      const bytes = canonicalBytes(JSON.parse(text));
      const signers = repository.signers.get(role) ?? [];
      const signatures = JSON.stringify(await Promise.all(signers.map(async each => signOne(bytes, each))));
      const file = Buffer.from(`{"signatures":${signatures},"signed":${text}}`);
      repository.files.set(repository.pathOf(role), file);
    };

    it.each<[string, (json: string) => string]>([
      ['a duplicate key', json => json.replace('"version":', '"version":1,"version":')],
      ['a duplicate key of equal value', json => json.replace('"_type"', '"_type":"timestamp","_type"')],
      ['a huge number', json => json.replace('{', '{"x":9007199254740993,')],
      ['a number with an exponent', json => json.replace('{', '{"x":1e3,')],
      ['half a surrogate pair', json => json.replace('{', '{"x":"\\ud800",')],
      ['__proto__', json => json.replace('{', '{"__proto__":{"version":99},')],
    ])('is refused, though signed correctly: %s', async (_, change) => {
      await refresh();
      await publishRaw('timestamp', change);
      await expect(refresh()).rejects.toThrow(
        expect.objectContaining({
          code: 'SITECAST_METADATA_MALFORMED',
          cause: expect.objectContaining({ code: 'SITECAST_JSON_REFUSED' }),
        }),
      );
    });

    it('is the only reason for the refusal: the same file without it is accepted', async () => {
      await refresh();
      await publishRaw('timestamp', json => json.replace('{', '{"x":9007199254740991,'));
      await expect(refresh()).resolves.toBeDefined();
    });
  });
});

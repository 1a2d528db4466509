import { createHash } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import { matchesPathPattern } from './delegation.ts';
import type { DelegatedRole } from './metadata.ts';
import { MemoryMetadataStore } from './stores.ts';
import { newSigner, refreshedTestClient, TestRepository } from './testing/index.ts';

const refusal = (code: string, data: Record<string, unknown> = {}) =>
  expect.objectContaining({ code, data: expect.objectContaining(data) });

describe('a path pattern', () => {
  it.each([
    ['targets/*.tgz', 'targets/foo.tgz', true],
    ['targets/*.tgz', 'targets/foo.txt', false],
    ['targets/*.tgz', 'targets/sub/foo.tgz', false],
    ['foo-version-?.tgz', 'foo-version-a.tgz', true],
    ['foo-version-?.tgz', 'foo-version-alpha.tgz', false],
    ['*.tgz', 'targets/foo.tgz', false],
    ['*', '', true],
    ['*', 'a/b', false],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'a-b-b-d', false],
    ['*a?', 'aab', true],
    ['?', '😀', true],
    ['??', '😀', false],
    ['[ab]', 'a', false],
    ['[ab]', '[ab]', true],
    ['a.c', 'abc', false],
    ['A', 'a', false],
    ['releases/*/*', 'releases/x/y', true],
  ])('%j against %j matches: %s', (pattern, target, matches) => {
    expect(matchesPathPattern(pattern, target)).toBe(matches);
  });

  it('that forces backtracking costs at most its length times that of the name', () => {
    expect(matchesPathPattern(`${'*a'.repeat(500)}b`, 'a'.repeat(1000))).toBe(false);
  });
});

describe('delegations', () => {
  let repository: TestRepository;
  let store: MemoryMetadataStore;
  beforeEach(async () => {
    repository = await TestRepository.create();
    store = new MemoryMetadataStore();
  });

  const publish = async (): Promise<void> =>
    repository.publishWithSnapshot(...repository.delegated.keys(), 'targets');
  const visits = async (target: string, limits = {}): Promise<string[]> => {
    repository.requests.length = 0;
    const client = await refreshedTestClient(repository, { store, limits });
    const at = repository.requests.length;
    await client.findTarget(target);
    return repository.requests.slice(at).map(path => path.replace(/^metadata\/\d+\.(.*)\.json$/, '$1'));
  };

  type Edge = [from: string, to: string, delegation?: Partial<DelegatedRole>];
  const all = { paths: ['*'] };
  it.each<[string, Edge[], string[]]>([
    [
      'in order of appearance',
      [
        ['targets', 'A'],
        ['targets', 'B'],
      ],
      ['A', 'B'],
    ],
    [
      'downwards first',
      [
        ['targets', 'A'],
        ['targets', 'B'],
        ['A', 'C'],
        ['A', 'D'],
      ],
      ['A', 'C', 'D', 'B'],
    ],
    [
      'not past a terminating one',
      [
        ['targets', 'A'],
        ['targets', 'B'],
        ['A', 'C', { ...all, terminating: true }],
        ['A', 'D'],
      ],
      ['A', 'C'],
    ],
    [
      'below a terminating one',
      [
        ['targets', 'A', { ...all, terminating: true }],
        ['targets', 'B'],
        ['A', 'C'],
        ['A', 'D'],
      ],
      ['A', 'C', 'D'],
    ],
    [
      'past a terminating one for other targets',
      [
        ['targets', 'A', { paths: ['*.py'], terminating: true }],
        ['targets', 'B'],
      ],
      ['B'],
    ],
    [
      'only where paths lead',
      [
        ['targets', 'A', { paths: ['*.py'] }],
        ['targets', 'B'],
        ['A', 'C'],
      ],
      ['B'],
    ],
    [
      'once round a cycle',
      [
        ['targets', 'A'],
        ['A', 'B'],
        ['B', 'C'],
        ['C', 'A'],
        ['C', 'targets2'],
      ],
      ['A', 'B', 'C', 'targets2'],
    ],
    [
      'not into itself',
      [
        ['targets', 'A'],
        ['A', 'A'],
        ['targets', 'B'],
      ],
      ['A', 'B'],
    ],
    [
      'once to a role that two delegate to',
      [
        ['targets', 'A'],
        ['targets', 'B'],
        ['A', 'C'],
        ['B', 'C'],
      ],
      ['A', 'C', 'B'],
    ],
  ])('are searched %s', async (_, edges, expected) => {
    const shared = newSigner();
    for (const [from, to, delegation] of edges) repository.delegate(from, to, delegation ?? all, [shared]);
    await publish();
    expect(await visits('missing')).toEqual(expected);
    // The second time all roles come from the store.
    expect(await visits('missing')).toEqual([]);
  });

  it('by hash prefix lead to the role of that prefix', async () => {
    const digest = createHash('sha256').update('file').digest('hex');
    repository.delegate('targets', 'A', { path_hash_prefixes: [digest.startsWith('0') ? '1' : '0'] });
    repository.delegate('targets', 'B', { path_hash_prefixes: ['x', digest.slice(0, 3)].slice(1) });
    repository.addTarget('B', 'file', 'content');
    await publish();
    expect(await visits('file')).toEqual(['B']);
  });

  it('to hash bins lead to the right bin', async () => {
    const signer = newSigner();
    const bits = 5;
    const bin = createHash('sha256').update('file').digest().readUInt8(0) >> (8 - bits);
    const name = `bin-${bin.toString(16).padStart(2, '0')}`;
    repository.delegate('targets', name, all, [signer]);
    repository.targets.delegations = {
      keys: { [signer.keyId]: signer.key },
      succinct_roles: { keyids: [signer.keyId], threshold: 1, bit_length: bits, name_prefix: 'bin' },
    };
    repository.addTarget(name, 'file', 'content');
    await publish();
    expect(await visits('file')).toEqual([name]);
  });

  it('are abandoned beyond the bound of roles, or of depth', async () => {
    const shared = newSigner();
    for (let index = 0; index < 6; index += 1) {
      repository.delegate('targets', `wide${index}`, { paths: ['w'] }, [shared]);
      repository.delegate(index ? `deep${index - 1}` : 'targets', `deep${index}`, { paths: ['d'] }, [shared]);
    }
    await publish();
    expect(await visits('w', { maxDelegatedRoles: 6 })).toHaveLength(6);
    expect(await visits('d', { maxDelegationDepth: 6 })).toHaveLength(6);
    const refused = refusal('SITECAST_DELEGATIONS_EXCEEDED');
    await expect(visits('w', { maxDelegatedRoles: 5 })).rejects.toThrow(refused);
    await expect(visits('d', { maxDelegationDepth: 5 })).rejects.toThrow(refused);
  });

  it.each(['?', '#', '/etc/passwd', '../root', '..', 'a b', 'ü%2f', "it's(*)!"])(
    'to a role called %j keep its file in the metadata folder',
    async name => {
      repository.delegate('targets', name);
      await publish();
      await visits('x');
      const quoted = repository.requests.at(-1) ?? '';
      expect(quoted).toMatch(/^metadata\/1\.[A-Za-z0-9._~%-]+\.json$/);
      expect(decodeURIComponent(quoted)).toBe(`metadata/1.${name}.json`);
      expect([...store.files.keys()].every(file => !file.includes('/'))).toBe(true);
    },
  );

  it('to a role whose name is too long for a file name are followed', async () => {
    const name = 'ü'.repeat(300);
    repository.delegate('targets', name);
    repository.addTarget(name, 'file', 'content');
    await publish();
    const client = await refreshedTestClient(repository, { store });
    expect(await client.findTarget('file')).toMatchObject({ role: name });
    expect(Math.max(...[...store.files.keys()].map(file => file.length))).toBeLessThan(255);
  });

  it('to top-level roles are malformed', async () => {
    repository.delegate('targets', 'snapshot2');
    const [first] = repository.targets.delegations?.roles ?? [];
    if (first) first.name = 'snapshot';
    await repository.publishWithSnapshot('targets');
    await expect(visits('x')).rejects.toThrow(refusal('SITECAST_METADATA_MALFORMED'));
  });

  describe('that change under a stored role', () => {
    beforeEach(async () => {
      repository.delegate('targets', 'team', { paths: ['team/*'] });
      repository.addTarget('team', 'team/file', 'content');
      await publish();
      await visits('team/file');
    });

    it('to another key make the stored role invalid', async () => {
      repository.targets.delegations = { keys: {}, roles: [] };
      repository.delegate('targets', 'team', { paths: ['team/*'] }, [newSigner()]);
      await repository.publishWithSnapshot('targets');
      repository.signers.set('team', []);
      await expect(visits('team/file')).rejects.toThrow(
        refusal('SITECAST_SIGNATURES_MISSING', { role: 'team', step: '5.6.3', valid: 0 }),
      );
    });

    it('to fewer paths hide what the role says about the others', async () => {
      const [team] = repository.targets.delegations?.roles ?? [];
      if (team) team.paths = ['elsewhere/*'];
      await repository.publishWithSnapshot('targets');
      const client = await refreshedTestClient(repository, { store });
      expect(await client.findTarget('team/file')).toBeUndefined();
    });

    it('to another version cause the role to be fetched again', async () => {
      await publish();
      expect(await visits('team/file')).toEqual(['team']);
      expect(store.files.get('team.json')).toEqual(repository.bytesOf('team', 2));
    });

    it('are removed, and with them the role', async () => {
      repository.targets.delegations = { keys: {}, roles: [] };
      await repository.publishWithSnapshot('targets');
      const client = await refreshedTestClient(repository, { store });
      expect(await client.findTarget('team/file')).toBeUndefined();
      await expect(client.loadDelegated('team')).rejects.toThrow(refusal('SITECAST_ROLE_UNKNOWN'));
    });
  });

  it('by two delegators to one role count with each delegator’s own keys', async () => {
    const [byA, byB] = [newSigner(), newSigner()];
    repository.delegate('targets', 'A', { paths: ['a/*'] });
    repository.delegate('targets', 'B', { paths: ['b/*'] });
    repository.delegate('A', 'release', { paths: ['a/*'] }, [byA]);
    repository.delegate('B', 'release', { paths: ['b/*'] }, [byB]);
    repository.signers.set('release', [byA]);
    repository.addTarget('release', 'a/file', 'good');
    repository.addTarget('release', 'b/file', 'bad');
    await publish();
    const client = await refreshedTestClient(repository, { store });
    expect(await client.findTarget('a/file')).toMatchObject({ role: 'release' });
    await expect(client.findTarget('b/file')).rejects.toThrow(
      refusal('SITECAST_SIGNATURES_MISSING', { role: 'release', valid: 0 }),
    );
    expect(await client.findTarget('a/file')).toMatchObject({ role: 'release' });
  });
});

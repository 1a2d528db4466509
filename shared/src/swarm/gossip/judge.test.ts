import { beforeEach, describe, expect, it } from 'vitest';
import { MemoryMetadataStore, rememberingVerifier, TufClient, verifySignature } from '../../trust/index.ts';
import { newSigner, TestRepository } from '../../trust/testing/index.ts';
import { type Announcement, announcementOf } from './announcement.ts';
import { judge } from './judge.ts';

let repository: TestRepository;
let trusted: { root: Uint8Array; timestamp: Uint8Array | undefined; snapshot: Uint8Array | undefined };
let newerRoots: number[];

beforeEach(async () => {
  repository = await TestRepository.create();
  repository.listsHashes = true;
  repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] });
  await repository.publishWithSnapshot('rollouts', 'targets');
  trusted = {
    root: repository.bytesOf('root'),
    timestamp: repository.bytesOf('timestamp'),
    snapshot: repository.bytesOf('snapshot'),
  };
  newerRoots = [];
});

const verdictOn = (announcement: Announcement) =>
  judge({
    trusted: () => trusted,
    now: () => repository.nowMs,
    onNewerRoot: version => newerRoots.push(version),
  })(announcement);

function news(...roles: string[]): Announcement {
  const files = roles.map(
    role => [repository.pathOf(role).slice('metadata/'.length), repository.bytesOf(role)] as const,
  );
  return announcementOf(repository.root.version, repository.bytesOf('timestamp'), new Map(files));
}

describe('a valid announcement that is newer', () => {
  it('is accepted, with the changed metadata or without', async () => {
    await repository.publishWithSnapshot('rollouts');
    expect(verdictOn(news())).toBe('accept');
    expect(news('rollouts', 'snapshot').files.size).toBe(2);
    expect(verdictOn(news('rollouts', 'snapshot'))).toBe('accept');
  });

  it('is accepted by a gateway that has just the root', async () => {
    trusted = { root: trusted.root, timestamp: undefined, snapshot: undefined };
    expect(verdictOn(news('snapshot', 'targets', 'rollouts'))).toBe('accept');
  });
});

describe('an announcement is ignored', () => {
  it('if it is the known one, or an older one', async () => {
    const before = news();
    expect(verdictOn(before)).toBe('ignore');
    await repository.publishWithSnapshot('rollouts');
    trusted.timestamp = repository.bytesOf('timestamp');
    expect(verdictOn(before)).toBe('ignore');
  });

  it('if it has expired', async () => {
    repository.timestamp.expires = repository.inDays(-1);
    repository.timestamp.issued = repository.inDays(-2);
    await repository.publish('timestamp');
    expect(verdictOn(news())).toBe('ignore');
  });

  it('if its root is not known yet, and that root is looked for', async () => {
    repository.setSigners('timestamp', [newSigner()]);
    await repository.publish('root', 'timestamp');
    expect(verdictOn(news())).toBe('ignore');
    expect(newerRoots).toEqual([repository.root.version]);
  });

  it('if its root is older and its keys were revoked since', async () => {
    await repository.publish('timestamp');
    const old = news();
    repository.setSigners('timestamp', [newSigner()]);
    await repository.publish('root');
    trusted = { root: repository.bytesOf('root'), timestamp: undefined, snapshot: undefined };
    expect(verdictOn(old)).toBe('ignore');
  });
});

describe('an announcement is rejected', () => {
  it('if it has no valid signature, or no timestamp', async () => {
    repository.signers.set('timestamp', [newSigner()]);
    await repository.publish('timestamp');
    expect(verdictOn(news())).toBe('reject');
    for (const text of ['', '{}', '[1', '{"signed":{},"signatures":[]}'])
      expect(verdictOn({ ...news(), timestamp: Buffer.from(text) })).toBe('reject');
  });

  it('if it has a snapshot, or another file, that the signed chain does not name', async () => {
    await repository.publishWithSnapshot('rollouts');
    const honest = news('rollouts', 'snapshot');
    const [snapshot = '', rollouts = ''] = [...honest.files.keys()];
    const withFile = (name: string, bytes: Uint8Array | undefined): Announcement => {
      const files = new Map(honest.files);
      if (bytes) files.set(name, bytes);
      else files.delete(name);
      return { ...honest, files };
    };
    const other = Buffer.from('{}');
    expect(verdictOn(withFile(snapshot, other))).toBe('reject');
    expect(verdictOn(withFile(rollouts, other))).toBe('reject');
    expect(verdictOn(withFile('9.rollouts.json', other))).toBe('reject');
    expect(verdictOn(withFile('1.strange.json', other))).toBe('reject');
    // Without the snapshot no signed file describes the other one.
    expect(verdictOn(withFile(snapshot, undefined))).toBe('reject');
  });

  it('if it has a file that the snapshot names by its version only', async () => {
    repository.listsHashes = false;
    await repository.publishWithSnapshot('rollouts');
    expect(verdictOn(news('snapshot'))).toBe('accept');
    expect(verdictOn(news('snapshot', 'rollouts'))).toBe('reject');
  });
});

it('verifies a signature once, for the announcement and for the client', async () => {
  const asked: string[] = [];
  const verify = rememberingVerifier((key, message, signatureHex) => {
    asked.push(signatureHex);
    return verifySignature(key, message, signatureHex);
  });
  const store = new MemoryMetadataStore();
  await TufClient.init(store, repository.bytesOf('root'), repository.nowMs);
  const now = () => repository.nowMs;
  const client = await TufClient.open({ store, fetcher: repository.metadata, now, verify });
  await client.refresh();
  // The calls are for root, timestamp, snapshot and targets.
  expect(asked).toHaveLength(4);
  await repository.publishWithSnapshot('targets');
  const { root, timestamp, snapshot } = client.trusted;
  trusted = { root: root.bytes, timestamp: timestamp?.bytes, snapshot: snapshot?.bytes };
  expect(judge({ trusted: () => trusted, now, verify })(news('snapshot'))).toBe('accept');
  await client.refresh();
  expect(asked).toHaveLength(7);
});

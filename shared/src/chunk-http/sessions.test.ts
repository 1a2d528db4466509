import { expect, it } from 'vitest';
import { CounterWindow, prove, readProof, type SessionSecret } from './proof.ts';
import { ChunkSessions, MAX_SESSIONS_PER_PEER } from './sessions.ts';

const CREDENTIAL = Buffer.from('an assignment');
const PATH = '/chunks/abcd/x';

let nowMs = 0;
const sessionsOf = (mayServe: (peer: string) => boolean | Promise<boolean> = () => true, self = 'me') =>
  new ChunkSessions({ self, mayServe, now: () => nowMs });

async function opened(sessions: ChunkSessions, peer = 'peer'): Promise<SessionSecret> {
  const secret = await sessions.open(peer, CREDENTIAL);
  if (!secret) throw new Error('no session');
  return secret;
}

function request(
  secret: SessionSecret,
  counter: number,
  { method = 'GET', path = PATH, server = 'me' } = {},
) {
  return { method, url: path, headers: { authorization: prove(secret, { method, path, counter, server }) } };
}

const refused = expect.objectContaining({ code: 'SITECAST_PEER_SESSION', kind: 'unauthenticated' });
const admits = (sessions: ChunkSessions, asked: Parameters<ChunkSessions['admit']>[0]) =>
  (async () => sessions.admit(asked))();

it('admits a peer that may be served, by its session', async () => {
  const sessions = sessionsOf();
  const secret = await opened(sessions);
  expect(await admits(sessions, request(secret, 1))).toBe('peer');
  expect(await admits(sessions, request(secret, 2, { method: 'HEAD' }))).toBe('peer');
});

it('opens no session for a peer that may not be served', async () => {
  const sessions = sessionsOf(() => false);
  expect(await sessions.open('peer', CREDENTIAL)).toBeUndefined();
  expect(sessions.size).toBe(0);
});

it('refuses what the key does not cover: another method, path, counter, server, key or session', async () => {
  const sessions = sessionsOf();
  const secret = await opened(sessions);
  const other = await opened(sessions, 'other');
  const asked = request(secret, 1);
  const wrong = [
    { ...asked, method: 'HEAD' },
    { ...asked, url: `${PATH}y` },
    {
      ...asked,
      headers: { authorization: asked.headers.authorization.replace('counter="1"', 'counter="2"') },
    },
    request(secret, 1, { server: 'another machine' }),
    request({ id: secret.id, key: other.key }, 1),
    request({ id: Buffer.alloc(16), key: secret.key }, 1),
    { ...asked, headers: {} },
    { ...asked, headers: { authorization: 'Bearer x' } },
    { ...asked, headers: { authorization: `${asked.headers.authorization} ` } },
  ];
  for (const each of wrong) await expect(admits(sessions, each)).rejects.toEqual(refused);
  // None of them has used up the counter.
  expect(await admits(sessions, asked)).toBe('peer');
});

it('accepts each counter once, also where requests overtake each other', async () => {
  const sessions = sessionsOf();
  const secret = await opened(sessions);
  for (const counter of [3, 1, 2, 1000])
    expect(await admits(sessions, request(secret, counter))).toBe('peer');
  for (const counter of [1, 2, 3, 1000])
    await expect(admits(sessions, request(secret, counter))).rejects.toEqual(refused);
});

it('checks again after 30 seconds whether the peer may be served', async () => {
  let isRevoked = false;
  let asked = 0;
  const sessions = sessionsOf(() => {
    asked += 1;
    return !isRevoked;
  });
  const secret = await opened(sessions);
  isRevoked = true;
  nowMs += 29_000;
  expect(await admits(sessions, request(secret, 1))).toBe('peer');
  expect(asked).toBe(1);
  nowMs += 2000;
  await expect(admits(sessions, request(secret, 2))).rejects.toEqual(refused);
  isRevoked = false;
  await expect(admits(sessions, request(secret, 3))).rejects.toEqual(refused);
  expect(sessions.size).toBe(0);
});

it('stops serving a peer that is dropped, and one that is silent for 10 minutes', async () => {
  const sessions = sessionsOf();
  const [secret, other] = [await opened(sessions), await opened(sessions, 'other')];
  sessions.drop('peer');
  await expect(admits(sessions, request(secret, 1))).rejects.toEqual(refused);
  nowMs += 6 * 60_000;
  expect(await admits(sessions, request(other, 1))).toBe('other');
  nowMs += 6 * 60_000;
  expect(await admits(sessions, request(other, 2))).toBe('other');
  nowMs += 11 * 60_000;
  await expect(admits(sessions, request(other, 3))).rejects.toEqual(refused);
});

it('bounds the sessions of a peer: a new one replaces its oldest, and none of other peers', async () => {
  const sessions = sessionsOf();
  const other = await opened(sessions, 'other');
  const secrets: SessionSecret[] = [];
  for (let count = 0; count < 50; count += 1) secrets.push(await opened(sessions));
  expect(sessions.size).toBe(1 + MAX_SESSIONS_PER_PEER);
  expect(await admits(sessions, request(other, 1))).toBe('other');
  const [last, first] = [secrets.at(-1), secrets[0]];
  if (!last || !first) throw new Error('no sessions');
  expect(await admits(sessions, request(last, 1))).toBe('peer');
  await expect(admits(sessions, request(first, 1))).rejects.toEqual(refused);
});

it('remembers as many counters as may be out of order', () => {
  const window = new CounterWindow();
  for (let counter = 0; counter < 10_000; counter += 1) expect(window.take(counter)).toBe(true);
  for (let counter = 0; counter < 10_000; counter += 1) expect(window.take(counter)).toBe(false);
  expect(window.take(20_000)).toBe(true);
  expect(window.take(20_000 - 1023)).toBe(true);
  expect(window.take(20_000 - 1024)).toBe(false);
});

it('reads proofs of one form only', () => {
  const secret = { id: Buffer.alloc(16, 1), key: Buffer.alloc(32, 2) };
  const value = prove(secret, { method: 'GET', path: PATH, counter: 7, server: 'me' });
  expect(readProof(value)).toMatchObject({ counter: 7, session: secret.id.toString('base64url') });
  for (const wrong of [
    undefined,
    '',
    value.slice(1),
    `${value}x`,
    value.replace('"7"', '"-7"'),
    value.replace('"7"', `"${'7'.repeat(16)}"`),
  ])
    expect(readProof(wrong)).toBeUndefined();
});

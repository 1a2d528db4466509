import { beforeEach, expect, it } from 'vitest';
import { openStores } from '../adapters/embedded/stores.ts';
import type { TableStore, Write } from '../adapters/embedded/tables.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { TestClock } from '../testing/setup.ts';
import { MAX_TOKENS, Tokens } from './tokens.ts';

let store: MemoryTables;
const clock = new TestClock();
beforeEach(() => {
  store = new MemoryTables();
});

/** The tokens as a process that starts has them. */
const openTokens = async (tables: TableStore = store): Promise<Tokens> =>
  new Tokens((await openStores(tables, clock.now)).tokenStore, clock.now);

const code = (expected: string) => expect.objectContaining({ code: expected });

it('allows each role its own acts and those of the roles below it', async () => {
  const tokens = await openTokens();
  const { token } = await tokens.create({ name: 'ci', role: 'operator' });
  expect(tokens.authorise(`Bearer ${token}`, 'viewer').role).toBe('operator');
  expect(tokens.authorise(`bearer ${token}`, 'operator').name).toBe('ci');
  expect(() => tokens.authorise(`Bearer ${token}`, 'admin')).toThrow(code('SITECAST_ROLE_TOO_LOW'));
});

it.each([
  ['none', undefined, 'SITECAST_TOKEN_MISSING'],
  ['an empty one', '', 'SITECAST_TOKEN_INVALID'],
  ['another scheme', 'Basic eDp5', 'SITECAST_TOKEN_INVALID'],
  ['one that was never made', `Bearer sitecast_${'A'.repeat(43)}`, 'SITECAST_TOKEN_INVALID'],
  ['a very long one', `Bearer ${'A'.repeat(100_000)}`, 'SITECAST_TOKEN_INVALID'],
])('refuses %s', async (_what, header, expected) => {
  const tokens = await openTokens();
  await tokens.create({ name: 'a', role: 'admin' });
  expect(() => tokens.authorise(header, 'viewer')).toThrow(code(expected));
});

it('stores only the hash of a token, and knows it after a restart', async () => {
  const { token } = await (await openTokens()).create({ name: 'a', role: 'viewer' });
  expect(JSON.stringify([...store.memory.values])).not.toContain(token.slice('sitecast_'.length));
  const tokens = await openTokens();
  expect(tokens.authorise(`Bearer ${token}`, 'viewer').name).toBe('a');
  expect(JSON.stringify(tokens.list())).not.toContain('hash');
});

it('refuses a token from its expiry on, and creates none that has expired', async () => {
  const tokens = await openTokens();
  const expiresAt = new Date(clock.nowMs + 1000).toISOString();
  const { token } = await tokens.create({ name: 'a', role: 'viewer', expiresAt });
  expect(tokens.authorise(`Bearer ${token}`, 'viewer').expiresAt).toBe(expiresAt);
  clock.nowMs += 1000;
  expect(() => tokens.authorise(`Bearer ${token}`, 'viewer')).toThrow(code('SITECAST_TOKEN_EXPIRED'));
  await expect(tokens.create({ name: 'b', role: 'viewer', expiresAt })).rejects.toThrow(
    code('SITECAST_EXPIRY_PAST'),
  );
});

it('revokes at once and for good, but never the last admin without an expiry', async () => {
  const tokens = await openTokens();
  const first = await tokens.create({ name: 'first', role: 'admin' });
  const soon = new Date(clock.nowMs + 60_000).toISOString();
  await tokens.create({ name: 'for a minute', role: 'admin', expiresAt: soon });
  await expect(tokens.revoke(first.id)).rejects.toThrow(code('SITECAST_LAST_ADMIN'));
  const second = await tokens.create({ name: 'second', role: 'admin' });
  await tokens.revoke(first.id);
  expect(() => tokens.authorise(`Bearer ${first.token}`, 'viewer')).toThrow(code('SITECAST_TOKEN_INVALID'));
  await expect(tokens.revoke(first.id)).rejects.toThrow(code('SITECAST_TOKEN_UNKNOWN'));
  const again = await openTokens();
  expect(again.list().map(({ id }) => id)).not.toContain(first.id);
  expect(again.authorise(`Bearer ${second.token}`, 'admin').name).toBe('second');
});

it("doesn't let two concurrent revocations revoke the last two admins", async () => {
  const tokens = await openTokens();
  const ids = [
    await tokens.create({ name: 'a', role: 'admin' }),
    await tokens.create({ name: 'b', role: 'admin' }),
  ];
  const results = await Promise.allSettled(ids.map(({ id }) => tokens.revoke(id)));
  expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

it('creates an admin where no valid one exists: at first, and when all have expired', async () => {
  const kept: string[] = [];
  const place = {
    keep: async (token: string) => {
      kept.push(token);
      return 'on the desk';
    },
  };
  const tokens = await openTokens();
  expect(await tokens.createAdminIfNone(place)).toBe('on the desk');
  expect(await tokens.createAdminIfNone(place)).toBeUndefined();
  expect(tokens.authorise(`Bearer ${kept[0]}`, 'admin').role).toBe('admin');
});

it('leaves a valid admin when the process dies between keeping the first token and storing it', async () => {
  const dying: TableStore = {
    get: (table, key) => store.get(table, key),
    entries: (table, range) => store.entries(table, range),
    commit: () => Promise.reject(new Error('killed')),
  };
  const kept: string[] = [];
  const place = {
    keep: async (token: string) => {
      kept.push(token);
      return 'on the desk';
    },
  };
  await expect((await openTokens(dying)).createAdminIfNone(place)).rejects.toThrow('killed');
  const tokens = await openTokens();
  await tokens.createAdminIfNone(place);
  expect(tokens.authorise(`Bearer ${kept.at(-1)}`, 'admin').role).toBe('admin');
});

it(`keeps ${MAX_TOKENS} tokens and no more`, async () => {
  const tokens = await openTokens();
  const make = (at: number) => tokens.create({ name: `x${at}`, role: 'viewer' });
  await Promise.all(Array.from({ length: MAX_TOKENS }, (_, at) => make(at)));
  await expect(make(MAX_TOKENS)).rejects.toThrow(code('SITECAST_TOO_MANY_TOKENS'));
});

it('gives a name to one token at a time, because the audit log distinguishes people by it', async () => {
  const tokens = await openTokens();
  const make = (name: string, expiresAt?: string) => tokens.create({ name, role: 'viewer', expiresAt });
  const taken = code('SITECAST_TOKEN_NAME_TAKEN');
  const { id } = await make('bob');
  for (const name of ['bob', 'Bob', ' bob', 'b\u200bob', 'ｂｏｂ', 'origin', 'Ori\u2060gin'])
    await expect(make(name)).rejects.toThrow(taken);
  const both = await Promise.allSettled([make('carl'), make('carl')]);
  expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  await make('bob-2');
  await tokens.revoke(id);
  await make('bob', new Date(clock.nowMs + 1000).toISOString());
  clock.nowMs += 1000;
  // An expired token no longer holds its name.
  await make('bob');
});

it('stores a token and its audit entry together, or neither', async () => {
  const commits: (readonly Write[])[] = [];
  const watched: TableStore = {
    get: (table, key) => store.get(table, key),
    entries: (table, range) => store.entries(table, range),
    commit: writes => {
      commits.push(writes);
      return store.commit(writes);
    },
  };
  const tokens = await openTokens(watched);
  const { id } = await tokens.create({ name: 'ci', role: 'viewer' });
  await tokens.revoke(id);
  expect(commits.map(writes => writes.map(({ table }) => table))).toEqual([
    ['audit', 'token'],
    ['audit', 'token'],
  ]);
});

import { SitecastError } from '@sitecast/shared/errors';
import { expect, it } from 'vitest';
import { type Source, Sources } from './sources.ts';

const nothing = { fetch: async () => undefined };
const sourceAt = (url: string): Source => ({ url, metadata: nothing, targets: nothing });

it('asks few neighbours for a file, drawn by chance, and none that rests, though the set came from it', () => {
  const neighbours = Array.from({ length: 10 }, (_, at) => sourceAt(`libp2p://${at}`));
  const byId = new Map(neighbours.map(source => [source.url, source]));
  const source = (id: string): Source => byId.get(id) ?? sourceAt(id);
  const sources = new Sources([sourceAt('http://origin')], { ids: () => [...byId.keys()], source });
  const asked = () => sources.inOrder().map(({ url }) => url);
  const seen = new Set<string>();
  // So many draws of three leave none of ten out.
  for (let times = 0; times < 200; times += 1) {
    expect(asked()).toHaveLength(4);
    for (const url of asked()) seen.add(url);
  }
  expect(seen.size).toBe(11);

  sources.follow(source('libp2p://7'));
  expect(asked().slice(0, 2)).toEqual(['http://origin', 'libp2p://7']);
  sources.failed(sourceAt('http://origin'), new SitecastError('unreachable', 'SITECAST_X', 'x'));
  expect([asked()[0], asked().at(-1)]).toEqual(['libp2p://7', 'http://origin']);
  sources.failed(
    source('libp2p://7'),
    new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'x'),
  );
  for (let times = 0; times < 200; times += 1) expect(asked()).not.toContain('libp2p://7');
  sources.follow(sourceAt('http://origin'));
  sources.failed(sourceAt('http://origin'), new SitecastError('unreachable', 'SITECAST_X', 'x'));
  expect(asked()[0]).toBe('http://origin');
});

it('asks a neighbour that rests where there is no other: it lacked a file a moment ago', async () => {
  const timestamp = Buffer.from(JSON.stringify({ signed: { version: 7 } }));
  const only: Source = { ...sourceAt('libp2p://only'), metadata: { fetch: async () => timestamp } };
  const sources = new Sources([], { ids: () => ['only'], source: () => only });
  const news = { from: 'only', version: 7, files: new Map([['timestamp.json', timestamp]]) };
  const { signal } = new AbortController();
  for (const code of ['SITECAST_TARGET_UNAVAILABLE', 'SITECAST_UPSTREAM_UNREACHABLE'] as const) {
    sources.failed(only, new SitecastError('unreachable', code, 'x'));
    for (const heard of [undefined, news]) {
      const asked: string[] = [];
      for await (const { url } of sources.forRound(heard, signal)) asked.push(url);
      expect(asked).toContain('libp2p://only');
    }
    expect(sources.inOrder().map(({ url }) => url)).toEqual(['libp2p://only']);
  }
});

it('asks the neighbour that announced something first, and an upstream that answers before its other neighbours', async () => {
  const neighbours = ['libp2p://1', 'libp2p://2', 'libp2p://3'];
  const sources = new Sources([sourceAt('http://origin')], { ids: () => neighbours, source: sourceAt });
  const news = { from: 'libp2p://2', version: 2, files: new Map() };
  const asked = async (): Promise<string[]> => {
    const urls: string[] = [];
    for await (const { url } of sources.forRound(news, new AbortController().signal)) urls.push(url);
    return urls;
  };
  expect(await asked()).toEqual(['libp2p://2', 'http://origin']);
  sources.failed(sourceAt('http://origin'), new SitecastError('unreachable', 'SITECAST_X', 'x'));
  expect((await asked()).slice(0, 4)).toEqual(['libp2p://2', 'libp2p://1', 'libp2p://3', 'http://origin']);
});

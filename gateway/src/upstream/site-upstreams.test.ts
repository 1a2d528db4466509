import { SitecastError } from '@sitecast/shared/errors';
import { expect, it } from 'vitest';
import { type SiteServer, SiteUpstreams } from './site-upstreams.ts';
import type { UpstreamAnswer } from './upstream.ts';

const unreachable = new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', 'nothing there');

function server(url: string, answer: UpstreamAnswer | SitecastError): SiteServer {
  const give = async (): Promise<UpstreamAnswer> => {
    if (answer instanceof SitecastError) throw answer;
    return answer;
  };
  return { url, ask: give, forward: async () => ({ status: 503, headers: {}, body: new Uint8Array(0) }) };
}

const refused = { status: 403, json: { code: 'SITECAST_REVOKED' } };
const answered = { status: 200, json: { acknowledgements: [], rejected: [{ seq: 1, code: 'SITECAST_X' }] } };

it("takes no refusal of a neighbour for the origin's, and no report that it says is refused", async () => {
  const neighbours = [server('libp2p://liar', refused), server('libp2p://other', answered)];
  const upstreams = new SiteUpstreams([server('http://origin', unreachable)], () => neighbours);
  expect(await upstreams.ask('/site/v1/reports', {})).toEqual({
    status: 200,
    json: { acknowledgements: [], rejected: [] },
  });
  const lied = new SiteUpstreams([server('http://origin', unreachable)], () => neighbours.slice(0, 1));
  await expect(lied.ask('/site/v1/reports', {})).rejects.toMatchObject({
    code: 'SITECAST_UPSTREAM_UNREACHABLE',
    data: { hasFailed: false },
  });
});

it('comes to the neighbour that answers, however many others say no', async () => {
  const asked = new Map<string, number>();
  const counting = (one: SiteServer): SiteServer => ({
    ...one,
    ask: async (path, body) => {
      asked.set(one.url, (asked.get(one.url) ?? 0) + 1);
      return one.ask(path, body);
    },
  });
  const liars = Array.from({ length: 5 }, (_, at) => server(`libp2p://liar-${at}`, refused));
  const neighbours = [...liars, server('libp2p://honest', answered)].map(counting);
  const upstreams = new SiteUpstreams([server('http://origin', unreachable)], () => neighbours);
  // Three neighbours are tried for one request; whoever said no comes after those that weren't tried.
  await upstreams.ask('/site/v1/reports', {}).catch(() => undefined);
  for (let times = 0; times < 20; times += 1)
    expect(await upstreams.ask('/site/v1/reports', {})).toMatchObject({ status: 200 });
  expect(liars.every(({ url }) => (asked.get(url) ?? 0) <= 1)).toBe(true);
});

it("takes the origin's word as it is", async () => {
  for (const answer of [refused, answered])
    expect(await new SiteUpstreams([server('http://origin', answer)]).ask('/site/v1/reports', {})).toEqual(
      answer,
    );
});

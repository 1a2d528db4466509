import { expect, it } from 'vitest';
import { urlOfPeer } from '@sitecast/shared/swarm';
import { Metrics } from './metrics.ts';

const ANSWERS = 'sitecast_http_requests_total{method="GET",route="/chunks/:folder/:name",status="200"}';
const SENT = 'sitecast_lan_sent_bytes_total{kind="chunks"}';

async function scraped(metrics: Metrics): Promise<string[]> {
  const lines = (await metrics.text()).split('\n');
  return [ANSWERS, SENT].map(name => lines.find(line => line.startsWith(name))?.slice(name.length + 1) ?? '');
}

it('counts each answer with a chunk once, however often it is scraped', async () => {
  const metrics = new Metrics();
  metrics.chunkAnswered(200, 100);
  metrics.chunkAnswered(200, 20);
  metrics.chunkAnswered(404, 0);
  expect(await scraped(metrics)).toEqual(['2', '120']);
  expect(await scraped(metrics)).toEqual(['2', '120']);
  metrics.chunkAnswered(200, 3);
  expect(await scraped(metrics)).toEqual(['3', '123']);
});

it('has one series for all gateways of other sites, however many ids they make up', async () => {
  const metrics = new Metrics();
  for (const id of ['one', 'another']) metrics.refused(urlOfPeer(id), 'SITECAST_CHUNK_MISMATCH');
  metrics.refused('http://192.0.2.1', 'SITECAST_CHUNK_MISMATCH');
  const lines = (await metrics.text())
    .split('\n')
    .filter(line => line.startsWith('sitecast_upstream_refused_total{'));
  expect(lines).toEqual([
    'sitecast_upstream_refused_total{upstream="a gateway of another site",code="SITECAST_CHUNK_MISMATCH"} 2',
    'sitecast_upstream_refused_total{upstream="http://192.0.2.1",code="SITECAST_CHUNK_MISMATCH"} 1',
  ]);
});

import { expect, it } from 'vitest';
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

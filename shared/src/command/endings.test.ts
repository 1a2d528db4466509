import { expect, it } from 'vitest';
import { Endings } from './endings.ts';

function opened(...names: string[]) {
  const told: string[] = [];
  const ended: string[] = [];
  const endings = new Endings(name => told.push(name));
  for (const name of names) endings.add(name, async () => void ended.push(name));
  return { endings, ended, told };
}

it('ends what was opened last first, and each thing once', async () => {
  const { endings, ended, told } = opened('database', 'server');
  await endings.endAll();
  await endings.endAll();
  expect([ended, told]).toEqual([['server', 'database'], []]);
});

it('goes on after an ending that throws, reports it at once, and throws at the end', async () => {
  const { endings, ended, told } = opened('database');
  endings.add('fleet', () => Promise.reject(new Error('no space left')));
  endings.add('gossip', () => {
    throw new Error('never joined');
  });
  await expect(endings.endAll()).rejects.toMatchObject({
    code: 'SITECAST_STOP_INCOMPLETE',
    message: expect.stringContaining('gossip: never joined; fleet: no space left'),
  });
  expect([ended, told]).toEqual([['database'], ['gossip', 'fleet']]);
});

it('stops waiting for an ending that takes too long, and ends the others all the same', async () => {
  const ended: string[] = [];
  const endings = new Endings(() => undefined, 50);
  endings.add('database', async () => void ended.push('database'));
  endings.add('server', () => new Promise(() => undefined));
  await expect(endings.endAll()).rejects.toMatchObject({
    message: expect.stringContaining('server: it took too long'),
  });
  expect(ended).toEqual(['database']);
});

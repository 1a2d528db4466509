import { expect, it } from 'vitest';
import { Endings } from './endings.ts';

function opened(...names: string[]) {
  const told: string[] = [];
  const ended: string[] = [];
  const endings = new Endings(name => told.push(name));
  for (const name of names) endings.add(name, async () => void ended.push(name));
  return { endings, ended, told };
}

it('ends what was opened last first, and once', async () => {
  const { endings, ended, told } = opened('database', 'server');
  await endings.endAll();
  await endings.endAll();
  expect([ended, told]).toEqual([['server', 'database'], []]);
});

it('goes on past an ending that throws, tells of it at once, and says so in the end', async () => {
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

it('waits no longer than it may for those that don’t end, and lets the others end all the same', async () => {
  const ended: string[] = [];
  const endings = new Endings(() => undefined, 50);
  endings.add('database', async () => void ended.push('database'));
  endings.add('server', () => new Promise(() => undefined));
  await expect(endings.endAll()).rejects.toMatchObject({
    message: expect.stringContaining('server: it took too long'),
  });
  expect(ended).toEqual(['database']);
});

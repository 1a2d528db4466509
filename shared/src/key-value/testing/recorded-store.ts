import { join } from 'node:path';
import { mark } from '../../testing/disk/index.ts';
import { openLevelStore } from '../open.ts';

// A process for tests, whose writes are recorded: a database that is opened, written and closed three times: recorded-store.js DIRECTORY

const [directory = ''] = process.argv.slice(2);
const COMMITS = 8;
for (let round = 0; round < 3; round += 1) {
  const store = await openLevelStore({
    path: join(directory, 'state'),
    witnessPath: join(directory, 'state.witness'),
    owner: { name: 'test', dataDirectory: directory, cure: '' },
  });
  for (let at = round * COMMITS; at < (round + 1) * COMMITS; at += 1) {
    await store.commit([{ key: `k${at}`, value: { at, text: 'x'.repeat(700) } }]);
    mark(String(at));
  }
  await store.close();
}
process.exit(0);

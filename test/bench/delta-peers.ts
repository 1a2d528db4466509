import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { type Measured, measure } from './measured.ts';

/** The images, and the inputs for a peer: another tool to compare with. */
export interface PeerJob {
  readonly base: string;
  readonly target: string;
  /** The trees that the images were made of, if there are any. */
  readonly trees: { readonly base: string; readonly target: string } | undefined;
  /** An empty directory for this peer. */
  readonly directory: string;
}

export interface PeerFigures {
  readonly bytes: number;
  readonly make?: Measured | undefined;
  readonly apply?: Measured | undefined;
}

/** Another tool for the same purpose. */
export interface Peer {
  readonly name: string;
  /** The tool is measured only if all of these are installed. */
  readonly programs: readonly string[];
  /** @returns undefined where it can't do this job */
  readonly run: (job: PeerJob) => Promise<PeerFigures | undefined>;
}

const RAUC_BLOCK_BYTES = 4096;

export const PEERS: readonly Peer[] = [
  patchPeer('bsdiff', ['bsdiff', 'bspatch'], ({ base, target }) => ({
    make: ['bsdiff', base, target, 'patch'],
    apply: ['bspatch', base, 'made', 'patch'],
  })),
  patchPeer('xdelta3 -9', ['xdelta3'], ({ base, target }, sourceBytes) => ({
    make: ['xdelta3', '-9', '-B', String(sourceBytes), '-e', '-s', base, target, 'patch'],
    apply: ['xdelta3', '-d', '-B', String(sourceBytes), '-s', base, 'patch', 'made'],
  })),
  patchPeer('zstd -19 --patch-from', ['zstd'], ({ base, target }) => ({
    make: ['zstd', '-q', '-19', '--long=31', `--patch-from=${base}`, target, '-o', 'patch'],
    apply: ['zstd', '-q', '-d', '--long=31', `--patch-from=${base}`, 'patch', '-o', 'made'],
  })),
  casyncPeer('16384:65536:262144'),
  casyncPeer('16384:32768:65536'),
  { name: 'zchunk', programs: ['zck', 'zck_delta_size'], run: zchunk },
  { name: 'ostree static delta (of the tree)', programs: ['ostree'], run: ostree },
  { name: 'missing 4 KiB blocks (RAUC)', programs: [], run: missingBlocks },
];

/** A tool that makes the file `patch`, and from that the file `made`. */
function patchPeer(
  name: string,
  programs: readonly string[],
  commands: (job: PeerJob, sourceBytes: number) => { make: string[]; apply: string[] },
): Peer {
  return {
    name,
    programs,
    run: async job => {
      const { make, apply } = commands(job, await lengthOf(job.base));
      const run = ([program = '', ...args]: string[]) => measure(job.directory, program, ...args);
      const made = await run(make);
      const applied = await run(apply);
      const directory = job.directory;
      if ((await sha256Of(join(directory, 'made'))) !== (await sha256Of(job.target)))
        throw new Error(`${name} made another image`);
      return { bytes: await lengthOf(join(directory, 'patch')), make: made, apply: applied };
    },
  };
}

/** Costs of the chunks that the base's store lacks, and the index. */
function casyncPeer(sizes: string): Peer {
  return {
    name: `casync ${sizes.replaceAll(/(\d+)/g, bytes => `${Number(bytes) / 1024}`)} KiB`,
    programs: ['casync'],
    run: async ({ base, target, directory }) => {
      const make = (image: string, name: string) =>
        measure(
          directory,
          'casync',
          'make',
          '--digest=sha256',
          `--chunk-size=${sizes}`,
          `--store=${name}`,
          `${name}.caibx`,
          image,
        );
      await make(base, 'old');
      const made = await make(target, 'new');
      const held = new Set(await filesBelow(join(directory, 'old')));
      let bytes = await lengthOf(join(directory, 'new.caibx'));
      for (const file of await filesBelow(join(directory, 'new'))) {
        if (!held.has(file)) bytes += await lengthOf(join(directory, 'new', file));
      }
      return { bytes, make: made };
    },
  };
}

async function zchunk({ base, target, directory }: PeerJob): Promise<PeerFigures> {
  await measure(directory, 'zck', '-o', 'old.zck', base);
  const make = await measure(directory, 'zck', '-o', 'new.zck', target);
  const { stdout } = await measure(directory, 'zck_delta_size', 'old.zck', 'new.zck');
  const bytes = Number(/Would download (\d+) of/.exec(stdout)?.[1]);
  if (Number.isNaN(bytes)) throw new Error(`zck_delta_size says: ${stdout}`);
  return { bytes, make };
}

async function ostree({ trees, directory }: PeerJob): Promise<PeerFigures | undefined> {
  if (trees === undefined) return undefined;
  const run = (...args: string[]) => measure(directory, 'ostree', '--repo=repo', ...args);
  await run('init', '--mode=archive');
  const commit = async (branch: string, tree: string) =>
    (
      await run('commit', '--owner-uid=0', '--owner-gid=0', `--branch=${branch}`, `--tree=dir=${tree}`)
    ).stdout.trim();
  const from = await commit('old', trees.base);
  const to = await commit('new', trees.target);
  const make = await run('static-delta', 'generate', `--from=${from}`, `--to=${to}`);
  const deltas = join(directory, 'repo', 'deltas');
  let bytes = 0;
  for (const file of await filesBelow(deltas)) bytes += await lengthOf(join(deltas, file));
  return { bytes, make };
}

/** RAUC's adaptive update: blocks that the base doesn't have anywhere, uncompressed, found by hashes in the bundle. */
async function missingBlocks({ base, target }: PeerJob): Promise<PeerFigures> {
  const held = new Set<string>();
  await eachBlock(base, block => held.add(hashOf(block)));
  let bytes = 0;
  await eachBlock(target, block => {
    const hash = hashOf(block);
    if (!held.has(hash)) bytes += block.length;
    held.add(hash);
  });
  return { bytes };
}

async function eachBlock(path: string, use: (block: Buffer) => void): Promise<void> {
  const file = await open(path);
  try {
    for await (const piece of file.createReadStream({ highWaterMark: 256 * RAUC_BLOCK_BYTES })) {
      const bytes: Buffer = piece;
      for (let at = 0; at < bytes.length; at += RAUC_BLOCK_BYTES)
        use(bytes.subarray(at, at + RAUC_BLOCK_BYTES));
    }
  } finally {
    await file.close();
  }
}

function hashOf(block: Buffer): string {
  return createHash('sha256').update(block).digest('base64');
}

async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(directory.length + 1));
}

export async function lengthOf(path: string): Promise<number> {
  return (await stat(path)).size;
}

export async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  await eachBlock(path, block => hash.update(block));
  return hash.digest('hex');
}

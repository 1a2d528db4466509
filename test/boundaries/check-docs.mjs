// Checks that what docs and comments name exists: files and folders in backticks, and the symbols named right after a file. Checks the
// form of the decisions and their index; `--write` writes the index anew. Then checks that it catches the seeded violations.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const TOPS = ['shared', 'origin', 'gateway', 'agent', 'packaging', 'test', 'docs', 'deploy', '.ci'];
const INDEX = 'docs/decisions/README.md';
const STATUS = /^Status: (accepted|replaced by \d{4})\.$/;

const listed = TOPS.flatMap(walk);
/** Every file and folder of the checkout, and what each one ends with. */
const tree = new Set([...TOPS, ...listed]);
const endings = new Set(
  [...tree].flatMap(path => path.split('/').map((_, at, parts) => parts.slice(at).join('/'))),
);
const rootFiles = new Set(readdirSync('.'));
const texts = new Map();

function walk(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    if (entry.name === 'node_modules' || entry.name === 'dist') return [];
    const path = `${folder}/${entry.name}`;
    return entry.isDirectory() ? [path, ...walk(path)] : [path];
  });
}

function read(path) {
  if (!texts.has(path)) texts.set(path, readFileSync(path, 'utf8'));
  return texts.get(path);
}

/** A path below `src` or `bin` is ours; `origin/admin.token` is a file of somebody's data directory. */
const isOurs = path =>
  /^((shared|origin|gateway|agent)\/(src|bin)|(test|docs|deploy|\.ci)\/[\w-])/.test(path) ||
  path.startsWith('*/src/');
const isSource = path => /^[\w./-]+\.(ts|mjs|cjs)$/.test(path);

function exists(path) {
  const plain = path.replace(/\/$/, '');
  if (plain.includes('*')) {
    const pattern = new RegExp(`^${plain.replaceAll('.', '\\.').replaceAll('*', '[^/]*')}$`);
    return [...tree].some(known => pattern.test(known));
  }
  return isOurs(plain) ? tree.has(plain) : endings.has(plain) || rootFiles.has(plain);
}

/** The file that a token means: a short name means the file beside the one before. */
function fileOf(token, before) {
  if (tree.has(token)) return token;
  const beside = before?.replace(/[^/]*$/, token);
  return beside && tree.has(beside) ? beside : [...tree].find(known => known.endsWith(`/${token}`));
}

function holds(path, symbol) {
  const isFile = isSource(path) || /\.\w+$/.test(path);
  // `origin/src/fleet`, `rollouts`: the second is a folder beside the first.
  if (!isFile && tree.has(path.replace(/[^/]*$/, symbol))) return true;
  const files = isFile ? [path] : [...tree].filter(known => known.startsWith(`${path}/`) && isSource(known));
  if (!isFile && /^[a-z]+$/.test(symbol)) return false;
  return files.some(file => new RegExp(`\\b${symbol}\\b`).test(read(file)));
}

const isPath = token => isOurs(token) || isSource(token);
const isName = token => /^[A-Za-z]\w*$/.test(token);

/** The paths of a line, and the symbols that belong to the path before them. */
function* namesIn(line, isTable) {
  // In the last column of a table each symbol belongs to the file that was named last, in that row or above.
  const lastColumn = isTable ? line.replace(/ \|$/, '').lastIndexOf('| ') : Number.POSITIVE_INFINITY;
  let end = Number.NaN;
  for (const { 0: quoted, 1: token, index } of line.matchAll(/`([^`\s]+)`/g)) {
    const isAfter = ['', ' ', ' (', ', '].includes(line.slice(end, index)) && !Number.isNaN(end);
    if (isPath(token)) yield { path: token };
    else if (isName(token) && (index > lastColumn || isAfter)) yield { symbol: token };
    end = isPath(token) || (isName(token) && isAfter) ? index + quoted.length : Number.NaN;
  }
}

/**
 * What a text names that isn't there.
 * @param text a page, or the comments of a source
 */
function problemsOf(name, text, isTable = false) {
  const problems = [];
  let file;
  text.split('\n').forEach((line, at) => {
    for (const { path, symbol } of namesIn(line, isTable)) {
      if (path !== undefined && !exists(path)) problems.push(`${name}:${at + 1}: there is no ${path}`);
      if (path !== undefined) file = fileOf(path.replace(/\/$/, ''), file);
      else if (file !== undefined && !holds(file, symbol))
        problems.push(`${name}:${at + 1}: ${file} has no ${symbol}`);
    }
  });
  return problems;
}

/** The comments of a source, each on its line. */
const commentsOf = source =>
  source
    .split('\n')
    .map(line => /^\s*(?:\/\*\*|\*|\/\/)(.*)|\s\/\/ (.*)/.exec(line)?.slice(1).find(Boolean) ?? '')
    .join('\n');

function decisions() {
  const names = readdirSync('docs/decisions')
    .filter(name => name !== 'README.md')
    .toSorted();
  const problems = [];
  const rows = names.map(name => {
    const [title = '', blank, status = ''] = read(`docs/decisions/${name}`).split('\n');
    const number = name.slice(0, 4);
    if (!/^\d{4}-[a-z0-9-]+\.md$/.test(name))
      problems.push(`docs/decisions/${name}: the name isn't NNNN-words-of-it.md`);
    if (!title.startsWith(`# ${number}: `))
      problems.push(`docs/decisions/${name}: the first line isn't "# ${number}: Title"`);
    if (blank !== '' || !STATUS.test(status))
      problems.push(
        `docs/decisions/${name}: the third line isn't "Status: accepted." or "Status: replaced by NNNN."`,
      );
    return `| [${number}](${name}) | ${title.slice(8)} | ${status.slice(8, -1)} |`;
  });
  const index = `# Decisions\n\nOne page each: what was decided, why, and what was given up. \`npm run check:docs -- --write\` writes this index.\n\n| number | title | status |\n| --- | --- | --- |\n${rows.join('\n')}\n`;
  if (process.argv.includes('--write')) writeFileSync(INDEX, index);
  else if (!tree.has(INDEX) || read(INDEX) !== index)
    problems.push(`${INDEX} isn't what the decisions say: npm run check:docs -- --write`);
  return { names, problems };
}

const isReplaced = name => /^Status: replaced by/m.test(read(`docs/decisions/${name}`));
const { names, problems } = decisions();
const pages = [
  'README.md',
  'SECURITY.md',
  'CONTRIBUTING.md',
  ...listed.filter(path => /^docs\/[^/]*\.md$|^test\/(?!boundaries\/).*\.md$/.test(path)),
  ...names.filter(name => !isReplaced(name)).map(name => `docs/decisions/${name}`),
];
const isSeeded = path => path.startsWith('test/boundaries/as-');
const sources = [...rootFiles, ...listed].filter(path => isSource(path) && !isSeeded(path));
for (const page of pages) problems.push(...problemsOf(page, read(page), page === 'docs/LIMITS.md'));
for (const source of sources) problems.push(...problemsOf(source, commentsOf(read(source))));

/** Each line of these that says so has one violation; the others have none. */
const seeded = [
  { path: 'test/boundaries/as-docs/violations.md', check: text => problemsOf('seeded', text, true) },
  { path: 'test/boundaries/as-docs/comments.ts', check: text => problemsOf('seeded', commentsOf(text)) },
];
let caught = 0;
for (const { path, check } of seeded) {
  const lines = read(path).split('\n');
  const wanted = lines.flatMap((line, at) => (line.includes('violation:') ? [at + 1] : []));
  const found = check(read(path)).map(problem => Number(problem.split(':')[1]));
  if (wanted.length === 0 || wanted.join() !== found.join())
    problems.push(
      `${path}: violations in lines ${wanted.join()}, caught in ${found.join()}: names are not checked`,
    );
  caught += found.length;
}

for (const problem of problems) process.stderr.write(`${problem}\n`);
if (problems.length > 0) process.exit(1);
process.stdout.write(
  `docs: ${pages.length} pages, ${sources.length} sources, ${names.length} decisions; ${caught} seeded violations caught\n`,
);

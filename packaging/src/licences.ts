import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { z } from 'zod';
import { type Role, TOP } from './roles.ts';
import { PackagingError } from './run.ts';

const APACHE = 'Apache-2.0';
/** Debian and many images have it here. */
const APACHE_PLACE = '/usr/share/common-licenses/Apache-2.0';
/** A dependency of ours whose licence file is the Apache License and nothing else. */
const APACHE_SOURCE = 'node_modules/zstd-napi/LICENSE';
const mapSchema = z.looseObject({ sources: z.array(z.string().nullable()) });
const authorSchema = z.union([z.string(), z.looseObject({ name: z.string() }).transform(({ name }) => name)]);
const manifestSchema = z.looseObject({
  name: z.string(),
  version: z.string(),
  license: z.string(),
  author: authorSchema.optional(),
});

export interface ThirdParty {
  name: string;
  version: string;
  /** SPDX expression. */
  licence: string;
  /** As the package carries it. */
  text: string;
}

/** The packages whose code is in a bundle, as its source maps name them: folders in the checkout. */
export async function bundledPackages(role: Role['name']): Promise<string[]> {
  const bundle = join(TOP, role, 'bundle');
  const found = new Set<string>();
  for (const name of (await readdir(bundle)).filter(name => name.endsWith('.map'))) {
    const map: unknown = JSON.parse(await readFile(join(bundle, name), 'utf8'));
    for (const source of mapSchema.parse(map).sources) {
      const path = relative(TOP, resolve(bundle, source ?? ''));
      const folder = /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0];
      if (folder !== undefined) found.add(folder);
    }
  }
  return [...found].sort();
}

/** @throws PackagingError where a package has neither a licence file nor a licence whose text is known */
export async function licenceOf(folder: string): Promise<ThirdParty> {
  const manifest: unknown = JSON.parse(await readFile(join(TOP, folder, 'package.json'), 'utf8'));
  const { name, version, license, author } = manifestSchema.parse(manifest);
  const texts = await Promise.all(
    (await licenceFiles(folder)).map(file => readFile(join(TOP, file), 'utf8')),
  );
  const text = texts.length > 0 ? texts.map(shortened).join('\n\n') : knownText(license, author);
  if (text === undefined)
    throw new PackagingError(`${name} has no licence file, and the text of ${license} isn't known here`);
  return { name, version, licence: license, text: plain(text) };
}

/** A package's own files, and those of the libraries that its native part is compiled of. */
async function licenceFiles(folder: string): Promise<string[]> {
  const libraries = join(folder, 'deps');
  const inside = existsSync(join(TOP, libraries))
    ? await readdir(join(TOP, libraries), { recursive: true })
    : [];
  return [
    ...(await readdir(join(TOP, folder))).map(file => join(folder, file)),
    ...inside.map(file => join(libraries, file)),
  ]
    .filter(file => /^(?:licen[cs]e|copying|notice)/i.test(basename(file)))
    .sort();
}

/** Many packages name a licence and carry no text. Where they offer a choice, it is Apache's. */
function knownText(licence: string, author: string | undefined): string | undefined {
  if (licence.split(' OR ').includes(APACHE)) return APACHE_REFERENCE;
  return licence === 'MIT' ? `Copyright (c) ${author ?? 'its authors'}\n\n${MIT_TEXT}` : undefined;
}

/** Debian wants the Apache License named, not repeated. */
const shortened = (text: string): string =>
  /Apache License\s+Version 2\.0, January 2004/.test(text) ? APACHE_REFERENCE : text;

const plain = (text: string): string =>
  text
    .replaceAll('\r', '')
    .split('\n')
    .map(line => line.trimEnd())
    .join('\n')
    .trim();

export const apacheText = (): Promise<string> => readFile(join(TOP, APACHE_SOURCE), 'utf8');

/** One text of all licences: each text once, below the packages that it covers. */
export function copyrightText(role: Role, parties: readonly ThirdParty[], withNode: boolean): string {
  const byText = new Map<string, ThirdParty[]>();
  for (const party of parties) byText.set(party.text, [...(byText.get(party.text) ?? []), party]);
  const sections = [...byText].map(([text, covered]) =>
    [...covered.map(({ name, version, licence }) => `${name} ${version} (${licence})`), '', text].join('\n'),
  );
  const node = withNode
    ? [
        '',
        'Node.js is in it, too. Its licence, and those of what is in Node.js, are in LICENSE.node.gz beside this file.',
      ]
    : [];
  return `${[
    `${role.packageName} is part of Sitecast.`,
    '',
    'Copyright: the Sitecast developers',
    `License: ${APACHE}. ${APACHE_REFERENCE}`,
    ...node,
    '',
    'The packages below are compiled into it. Each list is followed by the licence of all that it names.',
    ...sections.map(section => `\n${RULE}\n${section}`),
  ].join('\n')}\n`;
}

const RULE = '-'.repeat(78);
const APACHE_REFERENCE = `The Apache License, Version 2.0: ${APACHE_PLACE} on Debian systems, and Apache-2.0.txt beside this file.`;
const MIT_TEXT = `Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.`;

import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { memberNameSchema } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';

/** The kernel shows attributes as a page. */
const MAX_FILE_BYTES = 64 * 1024;
/** Stands in --name for what --name-file holds. */
const PLACE = '{}';
const MAX_SHOWN_CHARS = 80;

interface GivenName {
  name: string | undefined;
  nameFile: string | undefined;
}

/**
 * The name that this device asks for: --name; or the first line of --name-file, where the name has `{}` for it or there is no name.
 * Characters of the file that no name has become `-`: serial numbers hold blanks, MAC addresses colons, and the device tree's files end
 * with a zero byte. A device without a name works all the same, so a problem is only logged.
 */
export async function wishedName(
  { name, nameFile }: GivenName,
  warn: (message: string) => void,
): Promise<string | undefined> {
  const template = name ?? (nameFile === undefined ? undefined : PLACE);
  if (template === undefined) return undefined;
  const isFromFile = template.includes(PLACE);
  if (isFromFile && nameFile === undefined) {
    warn(`--name ${shown(template)} needs --name-file; this device asks for no name`);
    return undefined;
  }
  const wish = isFromFile && nameFile !== undefined ? await fromFile(template, nameFile, warn) : template;
  if (wish === undefined) return undefined;
  const parsed = memberNameSchema.safeParse(wish);
  if (parsed.success) return parsed.data;
  const why = parsed.error.issues[0]?.message ?? '';
  warn(`${shown(wish)} can't be a name (${why}); this device asks for none`);
  return undefined;
}

async function fromFile(
  template: string,
  path: string,
  warn: (message: string) => void,
): Promise<string | undefined> {
  try {
    const text = (await readFileBounded(path, MAX_FILE_BYTES)).toString('latin1');
    const [line = ''] = text.split(/[\0\r\n]/);
    const part = line.replaceAll(/[^A-Za-z0-9._-]+/g, '-').replaceAll(/^[._-]+|[._-]+$/g, '');
    if (part !== '') return template.replaceAll(PLACE, () => part);
    warn(`${path} holds nothing that could be a name; this device asks for none`);
  } catch (error) {
    if (!isSystemError(error) && !(error instanceof SitecastError)) throw error;
    warn(`the name in ${path} can't be read (${error.message}); this device asks for none`);
  }
  return undefined;
}

const shown = (text: string): string => JSON.stringify(cutText(text, MAX_SHOWN_CHARS));

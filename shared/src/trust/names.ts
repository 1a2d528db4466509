import { createHash } from 'node:crypto';
import { SitecastError } from '../errors.ts';

/** The bound of most file systems, less room for `.json` and the ending of a file that is being written. */
const MAX_FILE_NAME_BYTES = 200;

/** A role name or target name as one path segment: everything but letters, digits and `-._~` is percent-encoded. */
function quoteName(name: string): string {
  return encodeURIComponent(name).replaceAll(
    /[!'()*]/g,
    char => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** A percent-encoded name as a file name. A digest shortens it where it is too long for a file system. */
export function fileNameFor(name: string): string {
  const quoted = quoteName(name);
  if (quoted.length <= MAX_FILE_NAME_BYTES) return quoted;
  return `${quoted.slice(0, 100)}.${createHash('sha256').update(name).digest('hex')}`;
}

/** The path of a role's metadata below the metadata URL (TUF 1.0 section 6.2). */
export function metadataPath(role: string, version: number | undefined): string {
  return `${version === undefined ? '' : `${version}.`}${quoteName(role)}.json`;
}

/** Whether a target's name has a path. Metadata may list any string: whoever signs it can err. */
export function hasTargetPath(name: string): boolean {
  return name.split('/').every(segment => segment !== '' && segment !== '.' && segment !== '..');
}

/**
 * The path of a target file below the targets URL.
 * @param digest the prefix of the file name in a consistent snapshot
 * @throws SITECAST_TARGET_NAME_REFUSED (untrusted) for a name that would leave that folder
 */
export function targetPath(name: string, digest: string | undefined): string {
  const segments = name.split('/');
  if (!hasTargetPath(name)) {
    throw new SitecastError(
      'untrusted',
      'SITECAST_TARGET_NAME_REFUSED',
      'A target name has an empty or dotted part',
      {
        data: { target: name },
      },
    );
  }
  const folder = segments.slice(0, -1).map(segment => `${quoteName(segment)}/`);
  return `${folder.join('')}${digest === undefined ? '' : `${digest}.`}${quoteName(segments.at(-1) ?? '')}`;
}

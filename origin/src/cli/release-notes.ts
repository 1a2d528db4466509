import { cutText } from '@sitecast/shared/text';

const MAX_GIST_CHARS = 50;

/** The notes of a release, line by line, each marked as theirs: none passes for the command's own. */
export function notesLines(notes = ''): string[] {
  if (notes.trim() === '') return [];
  return notes
    .trimEnd()
    .split(/\r?\n/)
    .map(line => `| ${line}`);
}

/** Their first line, cut where it's long. */
export function gistOf(notes = ''): string {
  const [first = '', ...rest] = notes.trim().split(/\r?\n/);
  const gist = cutText(first, MAX_GIST_CHARS);
  return gist.length < first.length || rest.length > 0 ? `${gist} …` : gist;
}

import { SettingsCommand } from '@sitecast/shared/command';
import { expect, it } from 'vitest';
import { manPage } from './man-page.ts';
import { ROLES } from './roles.ts';

const options = { version: '1.2.3', epoch: 0 };
const plain = (roff: string): string => roff.replaceAll('\\-', '-').replaceAll('\\&', '');

it.each(Object.values(ROLES).flatMap(({ commands }) => commands))(
  'the page of $name has every option of every subcommand',
  async command => {
    const page = plain(await manPage(command, options));
    const missing: unknown[] = [];
    const check = (one: SettingsCommand['commands'][number]): void => {
      missing.push(
        ...one.options.filter(({ flags, hidden }) => !hidden && !page.includes(`\n.B ${flags}\n`)),
      );
      for (const subcommand of one.commands) check(subcommand);
    };
    check(command.program());
    expect(missing).toEqual([]);
    expect(page).toContain('.TH SITECAST');
    expect(page).toContain('1970-01-01 "Sitecast 1.2.3"');
  },
);

it('a text that begins as a macro, or has a backslash, stays text', async () => {
  const program = (): SettingsCommand => {
    const command = new SettingsCommand('tool');
    command.description("reads a path\n\n.so /etc/passwd\n'also C:\\dir");
    command.option('--file <name>', '.hidden files, too');
    return command;
  };
  const page = await manPage({ name: 'tool', section: 1, summary: 'reads', program }, options);
  expect(page).toContain("\n\\&.so /etc/passwd\n\\&'also C:\\edir\n");
  expect(page).toContain('.B \\-\\-file <name>\n\\&.hidden files, too (env: SITECAST_FILE)\n');
});

import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What the program does when it is told to boot. */
export type RebootManner =
  /** At once, as a container does. */
  | 'now'
  /** In the background, a moment after the verb has returned. */
  | 'late'
  | 'never'
  | 'fails'
  | 'hangs';

/**
 * A device maker's boot program, for tests: a real shell script, with a machine that is made of files. It "boots" as a boot loader does: the
 * slot on trial, while that has tries left; else the next slot.
 */
export class BootProgram {
  readonly #directory: string;
  /** For `--boot-command`. */
  readonly command: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.command = join(directory, 'boot-slots');
  }

  static async create(parent: string): Promise<BootProgram> {
    const program = BootProgram.at(parent);
    await mkdir(program.#directory, { recursive: true });
    await writeFile(program.command, SCRIPT);
    await chmod(program.command, 0o755);
    await program.set('booted', 'A');
    await program.set('next', 'A');
    await program.set('boots', '1');
    await program.reboots('now');
    return program;
  }

  /** The one that was created there, or a copy of it. */
  static at(parent: string): BootProgram {
    return new BootProgram(join(parent, 'machine'));
  }

  async reboots(manner: RebootManner): Promise<void> {
    await this.set('manner', manner);
  }

  /** These verbs don't return any more; an empty list lets all return. */
  async hang(...verbs: string[]): Promise<void> {
    await this.set('hang', verbs.join(' '));
  }

  /** These verbs fail, until it's called again. */
  async break(...verbs: string[]): Promise<void> {
    await this.set('broken', verbs.join(' '));
  }

  /** So many calls of the verb fail from now on. */
  async fail(verb: string, times: number): Promise<void> {
    await this.set(`fail-${verb}`, String(times));
  }

  /** All calls, a line each. */
  async calls(): Promise<string[]> {
    return (await this.get('calls')).split('\n').filter(Boolean);
  }

  /** Boots the machine without the agent's asking. */
  async boot(): Promise<void> {
    const [booted, tries] = [await this.get('trial'), Number(await this.get('tries'))];
    await this.set('boots', String(Number(await this.get('boots')) + 1));
    await this.set('booted', booted !== '' && tries > 0 ? booted : await this.get('next'));
    await this.set('tries', String(Math.max(0, tries - 1)));
  }

  async get(name: string): Promise<string> {
    return readFile(join(this.#directory, name), 'utf8').then(
      text => text.trim(),
      () => '',
    );
  }

  async set(name: string, value: string): Promise<void> {
    await writeFile(join(this.#directory, name), `${value}\n`);
  }
}

const SCRIPT = `#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$*" >> calls
# put FILE TEXT: a power cut leaves the old text or the new one
put() { echo "$2" > "$1.new" && sync "$1.new" && mv "$1.new" "$1" && sync .; }
boot() {
  echo $(($(cat boots) + 1)) > boots
  if [ -s trial ] && [ "$(cat tries)" -gt 0 ]; then
    cat trial > booted
    echo $(($(cat tries) - 1)) > tries
  else
    cat next > booted
  fi
}
if [ -s hang ]; then
  case " $(cat hang) " in
    *" $1 "*) echo $$ > hanging; exec sleep 300 ;;
  esac
fi
if [ -s broken ]; then
  case " $(cat broken) " in
    *" $1 "*) echo "$1 is broken" >&2; exit 4 ;;
  esac
fi
if [ -s "fail-$1" ] && [ "$(cat "fail-$1")" -gt 0 ]; then
  echo $(($(cat "fail-$1") - 1)) > "fail-$1"
  echo "$1 is broken" >&2
  exit 4
fi
case $1 in
  get)
    echo 'a warning, for people' >&2
    next=$(cat next)
    [ -s trial ] && [ "$(cat tries)" -gt 0 ] && next=$(cat trial)
    echo "{\\"booted\\":\\"$(cat booted)\\",\\"next\\":\\"$next\\",\\"bootId\\":\\"boot-$(cat boots)\\",\\"countsHangs\\":true,\\"isAtomic\\":true}" ;;
  mark-bad)
    if [ "$(cat trial 2>/dev/null)" = "$2" ]; then put tries 0; fi
    put bad "$2" ;;
  set-trial) put trial "$2"; put tries "$3" ;;
  confirm|set-next) put next "$2"; put tries 0 ;;
  reboot)
    case $(cat manner) in
      now) boot ;;
      late) (sleep 1; echo 'going down'; boot; : > came) & ;;
      never) ;;
      fails) exit 1 ;;
      hangs) echo $$ > hanging; exec sleep 300 ;;
    esac ;;
esac
exit 0
`;

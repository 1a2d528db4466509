import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { until } from '@sitecast/shared/testing';
import type { Disk } from './disk.ts';
import { Qmp } from './qmp.ts';

const MEMORY_MIB = 384;
/** Of `e2fsck -p`. */
const NEEDS_A_PERSON = /RUN fsck MANUALLY/;
const LOOKS_AT_WRITES = 100;
/** Sparse: QEMU doesn't let it grow. */
const WRITE_LOG_BYTES = 2 ** 30;
const MAX_SHOWN_CHARS = 2000;

export interface MachineOptions {
  disk: Disk;
  /** The read-only disk with Node. */
  runtime: string;
  /** Where the serial console is kept. */
  log: string;
  /** Where QEMU notes each write and flush of the disk (`blklogwrites`). */
  writeLog?: string;
}

/** One run of QEMU: from power-on to the power cut by which it ends. The machine may boot many times in between. */
export class Machine {
  readonly #child: ChildProcess;
  readonly #options: MachineOptions;
  readonly #qmpPath: string;
  readonly #stderr: string[] = [];
  #qmp: Promise<Qmp> | undefined;
  #seen = 0;

  constructor(options: MachineOptions) {
    this.#options = options;
    this.#qmpPath = `${options.disk.path}.qmp`;
    rmSync(this.#qmpPath, { force: true });
    const plain = `-accel tcg -m ${MEMORY_MIB} -display none -monitor none -nodefaults -nic user,model=virtio-net-pci`;
    const disks = [...drive(options), '-device', 'virtio-blk-pci,drive=d,bootindex=1'];
    const runtime = ['-drive', `file=${options.runtime},format=raw,if=virtio,readonly=on`];
    const ways = ['-serial', `file:${options.log}`, '-qmp', `unix:${this.#qmpPath},server=on,wait=off`];
    const args = [...plain.split(' '), ...disks, ...runtime, ...ways];
    this.#child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child.stderr?.on('data', (bytes: Buffer) => this.#stderr.push(bytes.toString()));
  }

  /** Writes to the disk since the power was switched on. */
  async writes(): Promise<number> {
    if (!existsSync(this.#qmpPath)) return 0;
    this.#qmp ??= Qmp.open(this.#qmpPath);
    return (await (await this.#qmp).writes()) ?? 0;
  }

  /** What the serial console has shown. */
  get output(): string {
    return existsSync(this.#options.log) ? readFileSync(this.#options.log, 'latin1') : '';
  }

  /** What the console has shown since the line that was waited for last. */
  get unread(): string {
    return this.output.slice(this.#seen);
  }

  /** Waits until the console shows a line, below the one that was waited for before. @throws where QEMU ends or nothing goes on */
  async shows(pattern: RegExp): Promise<void> {
    await this.until(`the console to show ${pattern.source}`, () => {
      const found = pattern.exec(this.unread);
      if (found) this.#seen += found.index + found[0].length;
      return found !== null;
    });
  }

  /** Waits until so many writes were made since the power was switched on, at most until the console shows that line. */
  async writesReach(count: number, atMost: RegExp): Promise<void> {
    await this.until(`${count} writes`, async () => {
      // Between two looks of a wait a machine makes many writes.
      for (let looks = 0; looks < LOOKS_AT_WRITES; looks += 1)
        if ((await this.writes()) >= count) return true;
      return atMost.test(this.unread);
    });
  }

  /** Waits while the machine writes to its console or its disk. */
  async until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const { disk, log } = this.#options;
    const check = (): boolean | Promise<boolean> => {
      if (this.#child.exitCode !== null) throw new Error(`QEMU has ended: ${this.#stderr.join('')}`);
      if (NEEDS_A_PERSON.test(this.output)) throw new Error("the boot partition isn't mended by itself");
      return holds();
    };
    const progress = (): string =>
      [log, disk.path].map(path => (existsSync(path) ? statSync(path).mtimeMs : 0)).join();
    await until(what, check, { pids: () => [this.#child.pid ?? 0], progress }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.output.slice(-MAX_SHOWN_CHARS)}\n(${log})`, { cause: error });
    });
  }

  /** Cuts the power. */
  async cut(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}

function drive({ disk, writeLog }: MachineOptions): string[] {
  if (writeLog === undefined) return ['-drive', `file=${disk.path},format=raw,if=none,id=d`];
  writeFileSync(writeLog, '');
  truncateSync(writeLog, WRITE_LOG_BYTES);
  return [
    `driver=file,filename=${disk.path},node-name=file`,
    'driver=raw,file=file,node-name=raw',
    `driver=file,filename=${writeLog},node-name=log-file`,
    'driver=blklogwrites,file=raw,log=log-file,log-super-update-interval=1,node-name=d',
  ].flatMap(node => ['-blockdev', node]);
}

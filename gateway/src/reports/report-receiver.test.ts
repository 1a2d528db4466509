import { expect, it } from 'vitest';
import { TestDevice } from '../testing/harness.ts';
import { ReportReceiver } from './report-receiver.ts';

// Unknown senders share a small budget, but no machine on the LAN can use up all of it.

const RATE_LIMITED = expect.objectContaining({ code: 'SITECAST_RATE_LIMITED' });

it('bounds the reports of unknown devices from one address, so that others have room', async () => {
  const desk = new ReportReceiver({
    queue: { add: async () => [], refusedOf: () => [] },
    assignments: { known: async () => undefined },
    acknowledgements: { get: async () => undefined },
    now: () => 0,
  });
  const send = async (address: string): Promise<void> => {
    const device = new TestDevice();
    const reports = await Promise.all(Array.from({ length: 10 }, () => device.report()));
    await desk.accept(device.id, reports, address);
  };
  const flood = async (address: string): Promise<void> => {
    for (let at = 0; at < 30; at += 1) await send(address);
  };
  await expect(flood('192.0.2.1')).rejects.toEqual(RATE_LIMITED);
  await send('192.0.2.2');
  await expect(flood('192.0.2.3')).rejects.toEqual(RATE_LIMITED);
  await send('192.0.2.4');
});

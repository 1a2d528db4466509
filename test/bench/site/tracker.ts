// A BitTorrent tracker for one torrent, as a process: node tracker.js ADDRESS PORT. Each peer that asks is told of all others.
// https://www.bittorrent.org/beps/bep_0003.html, and the compact form of BEP 23.
import { createServer } from 'node:http';

const [address = '', port = ''] = process.argv.slice(2);
const INTERVAL_S = 1;
const peers = new Map<string, Buffer>();

createServer((request, response) => {
  const asked = new URL(request.url ?? '/', 'http://tracker').searchParams;
  const from = request.socket.remoteAddress ?? '';
  const peerPort = Number(asked.get('port'));
  const name = `${from}:${peerPort}`;
  const others = [...peers].filter(([other]) => other !== name).map(([, bytes]) => bytes);
  peers.set(name, Buffer.from([...from.split('.').map(Number), peerPort >> 8, peerPort & 255]));
  const list = Buffer.concat(others);
  const head = `d8:intervali${INTERVAL_S}e12:min intervali${INTERVAL_S}e5:peers${list.length}:`;
  response.end(Buffer.concat([Buffer.from(head), list, Buffer.from('e')]));
}).listen(Number(port), address, () => process.stdout.write('ready\n'));

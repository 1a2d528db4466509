import type { ConnectionEncrypter, MessageStream } from '@libp2p/interface';

/**
 * An encryption that sends each message to the socket in one piece. libp2p's TCP writes each part of a message with a call of its own (a
 * length of two bytes, a header of twelve, the content, a tag of sixteen), and each call becomes a packet.
 */
export function joinedWrites<Components>(
  encryption: (components: Components) => ConnectionEncrypter,
): (components: Components) => ConnectionEncrypter {
  return components => {
    const encrypter = encryption(components);
    return {
      protocol: encrypter.protocol,
      secureInbound: (connection, options) => encrypter.secureInbound(joined(connection), options),
      secureOutbound: (connection, options) => encrypter.secureOutbound(joined(connection), options),
    };
  };
}

function joined<Stream extends MessageStream>(connection: Stream): Stream {
  const send = connection.send.bind(connection);
  connection.send = data => send(data.subarray());
  return connection;
}

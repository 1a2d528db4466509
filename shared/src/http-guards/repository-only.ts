import type { RequestListener } from 'node:http';

// What a stolen gateway may ask for over the fleet's network is what anyone may read over HTTP: signed files. It isn't let in any further: nothing
// that the site's own devices are owed (waiting, requests that name a device by their signatures) is spent on it.

const FILE = /^\/(?:metadata|targets)\/[A-Za-z0-9/._-]{1,200}$/;

/** Passes on what reads the files of a repository; everything else is answered with 404. */
export function repositoryOnly(listener: RequestListener): RequestListener {
  return (request, response) => {
    const { method, url = '', headers } = request;
    const isRead = (method === 'GET' || method === 'HEAD') && FILE.test(url);
    if (isRead && headers.prefer === undefined && headers.signature === undefined) {
      listener(request, response);
      return;
    }
    response.writeHead(404, { 'content-length': 0 }).end();
    request.resume();
  };
}

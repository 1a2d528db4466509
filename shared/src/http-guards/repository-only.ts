import type { RequestListener } from 'node:http';

// Over the fleet's network, any gateway, including a stolen one, may read what everyone may read over HTTP: signed files. It gets nothing
// else: long polls and requests that name a device by their signature are for the site's own devices.

const FILE = /^\/(?:metadata|targets)\/[A-Za-z0-9/._-]{1,200}$/;

/** Passes on requests that read files of a repository; all others get 404. */
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

import { OpenAPIHono } from '@hono/zod-openapi';
import { SitecastError } from '@sitecast/shared/errors';
import { invalidRequest, methodNotAllowed, methodsByPath, statusOf } from '@sitecast/shared/http-problem';
import { cutText } from '@sitecast/shared/text';
import { SITECAST_VERSION } from '@sitecast/shared/version';
import type { MiddlewareHandler } from 'hono';
import type { Log } from '@sitecast/shared/log';
import type { GatewayEnv } from './context.ts';
import type { AppDeps } from './deps.ts';
import { asSitecastError, problemResponse } from './problem.ts';
import { healthRoutes } from './routes/health.ts';
import { repositoryRoutes } from './routes/repository.ts';
import { siteRoutes } from './routes/site.ts';

export type GatewayApp = OpenAPIHono<GatewayEnv>;

/** The gateway's HTTP side: every route, described at /openapi.json; every error a problem+json. */
export function createApp(deps: AppDeps): GatewayApp {
  const app: GatewayApp = new OpenAPIHono<GatewayEnv>({
    defaultHook: result => {
      if (result.success) return;
      throw invalidRequest(result.error);
    },
  });
  app.use(deps.metrics.middleware());
  app.use(requestLog(deps.log));
  healthRoutes(app, deps);
  repositoryRoutes(app, deps);
  siteRoutes(app, deps);
  const info = { title: 'Sitecast gateway', version: SITECAST_VERSION };
  app.doc31('/openapi.json', { openapi: '3.1.0', info });
  refuseOtherMethods(app);

  app.notFound(c => {
    const path = JSON.stringify(cutText(c.req.path, 200));
    return problemResponse(new SitecastError('notFound', 'SITECAST_NOT_FOUND', `there is no ${path}`));
  });
  app.onError((thrown, c) => {
    const error = asSitecastError(thrown);
    const status = statusOf(error);
    const fields = { method: c.req.method, path: cutText(c.req.path, 300), code: error.code };
    if (status === 500) deps.log.error({ ...fields, err: thrown }, 'a request failed');
    else deps.log.debug({ ...fields, detail: error.message }, 'a request was refused');
    // The rest of the body is not awaited.
    return problemResponse(error, status === 413 ? { connection: 'close' } : {});
  });
  return app;
}

/** 405 with the methods that a path does have (RFC 9110, 15.5.6). */
function refuseOtherMethods(app: GatewayApp): void {
  for (const [path, methods] of methodsByPath(app.routes)) {
    app.all(path, c =>
      problemResponse(methodNotAllowed(c.req.method, methods), { allow: methods.join(', ') }),
    );
  }
}

function requestLog(log: Log): MiddlewareHandler<GatewayEnv> {
  return async (c, next) => {
    const begin = performance.now();
    await next();
    const { method, path } = c.req;
    const ms = Math.round(performance.now() - begin);
    log.debug(
      { method, path: cutText(path, 300), status: c.res.status, ms, sender: c.get('sender') },
      'request',
    );
  };
}

import { OpenAPIHono } from '@hono/zod-openapi';
import { SitecastError } from '@sitecast/shared/errors';
import {
  forStrangers,
  invalidRequest,
  methodNotAllowed,
  methodsByPath,
  statusOf,
} from '@sitecast/shared/http-problem';
import { cutText } from '@sitecast/shared/text';
import { SITECAST_VERSION } from '@sitecast/shared/version';
import type { LogFields } from '@sitecast/shared/log';
import type { Context, MiddlewareHandler } from 'hono';
import { errorFields, type Log } from '../log.ts';
import type { OriginApp, OriginEnv } from './context.ts';
import type { AppDeps } from './deps.ts';
import { asSitecastError, problemResponse } from './problem.ts';
import { auditRoutes } from './routes/audit.ts';
import { contentRoutes } from './routes/content.ts';
import { deltaRoutes } from './routes/deltas.ts';
import { eventRoutes } from './routes/events.ts';
import { gatewayRoutes } from './routes/gateways.ts';
import { healthRoutes } from './routes/health.ts';
import { joinTokenRoutes } from './routes/join-tokens.ts';
import { memberChangeRoutes } from './routes/member-changes.ts';
import { memberRoutes } from './routes/members.ts';
import { presenceRoutes } from './routes/presence.ts';
import { publicRoutes } from './routes/public.ts';
import { repositoryRoutes } from './routes/repository.ts';
import { rolloutRoutes } from './routes/rollouts.ts';
import { siteRoutes } from './routes/site.ts';
import { tokenRoutes } from './routes/tokens.ts';

/** The origin's HTTP side: every route, described at /openapi.json; every error a problem+json. */
export function createApp(deps: AppDeps): OriginApp {
  const app: OriginApp = new OpenAPIHono<OriginEnv>({
    defaultHook: result => {
      if (result.success) return;
      throw invalidRequest(result.error);
    },
  });
  app.use(deps.metrics.middleware());
  app.use(requestLog(deps.log));
  healthRoutes(app, deps);
  publicRoutes(app, deps);
  repositoryRoutes(app, deps);
  contentRoutes(app, deps);
  tokenRoutes(app, deps);
  siteRoutes(app, deps);
  gatewayRoutes(app, deps);
  presenceRoutes(app, deps);
  memberRoutes(app, deps);
  memberChangeRoutes(app, deps);
  joinTokenRoutes(app, deps);
  rolloutRoutes(app, deps);
  deltaRoutes(app, deps);
  auditRoutes(app, deps);
  eventRoutes(app, deps);
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', { type: 'http', scheme: 'bearer' });
  app.openAPIRegistry.registerComponent('securitySchemes', 'signature', {
    type: 'apiKey',
    in: 'header',
    name: 'signature',
    description:
      "RFC 9421 over method, path, query, content digest and Sitecast-Receiver (`origin`), by the sender's Ed25519 key",
  });
  const info = { title: 'Sitecast origin', version: SITECAST_VERSION };
  app.doc31('/openapi.json', { openapi: '3.1.0', info });
  refuseOtherMethods(app);

  app.notFound(c => {
    const path = JSON.stringify(cutText(c.req.path, 200));
    return problemResponse(new SitecastError('notFound', 'SITECAST_NOT_FOUND', `there is no ${path}`));
  });
  app.onError((thrown, c) => {
    const error = asSitecastError(thrown);
    const path = cutText(c.req.path, MAX_LOGGED_PATH_CHARS);
    const fields = { method: c.req.method, path, code: error.code };
    const isOperators = c.get('token') !== undefined;
    // The log says once that it isn't ready, and why: a fleet that reports again and again would fill the disk with that.
    const isTold =
      error.code === 'SITECAST_NOT_READY' || (error.code === 'SITECAST_NO_SPACE' && !isOperators);
    if (statusOf(error) >= 500 && !isTold) logFailure(deps.log, fields, error);
    else deps.log.debug({ ...fields, detail: error.message }, 'a request was refused');
    // A sender with a wrong clock corrects it by this header, and signs again.
    const date = error.code === 'SITECAST_REQUEST_CLOCK' && { date: new Date(deps.now()).toUTCString() };
    return problemResponse(isOperators ? error : forStrangers(error, 'origin'), { ...date });
  });
  return app;
}

/** 405 with the methods that a path does have (RFC 9110, 15.5.6). */
function refuseOtherMethods(app: OriginApp): void {
  for (const [path, methods] of methodsByPath(app.routes)) {
    app.all(path, c =>
      problemResponse(methodNotAllowed(c.req.method, methods), { allow: methods.join(', ') }),
    );
  }
}

/** Whether a request is logged as an operator's act. Requests of others could fill the log. An upload of an image is thousands of requests: `published` reports its result. */
function isOperatorsAct(c: Context<OriginEnv>): boolean {
  const { method, path } = c.req;
  const isChange = path.startsWith('/api/') && method !== 'GET' && method !== 'HEAD';
  return isChange && c.get('token') !== undefined && !/^\/api\/v1\/(chunks|files)(\/|$)/.test(path);
}

const MAX_LOGGED_PATH_CHARS = 300;

/** Expected failures are one line with a code. An unexpected one is a defect of the origin, with its stack. */
function logFailure(log: Log, fields: LogFields, error: SitecastError): void {
  const told = {
    ...fields,
    ...errorFields(error.code === 'SITECAST_INTERNAL' ? (error.cause ?? error) : error),
  };
  if (error.kind === 'failed') log.error(told, 'a request failed');
  else log.warn(told, 'a request was refused');
}

function requestLog(log: Log): MiddlewareHandler<OriginEnv> {
  return async (c, next) => {
    const begin = performance.now();
    await next();
    const { method, path } = c.req;
    const fields = {
      method,
      path: cutText(path, MAX_LOGGED_PATH_CHARS),
      status: c.res.status,
      ms: Math.round(performance.now() - begin),
      token: c.get('token')?.id,
    };
    if (isOperatorsAct(c)) log.info(fields, 'request');
    else log.debug(fields, 'request');
  };
}

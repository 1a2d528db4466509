export { Connections } from './connections.ts';
export { type HttpAnswer, HttpClient, type HttpRequest, readBounded, refuseRedirect } from './http-client.ts';

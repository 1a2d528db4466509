export { Connections } from './connections.ts';
export {
  type HttpAnswer,
  HttpClient,
  type HttpRequest,
  metered,
  readBounded,
  refuseRedirect,
} from './http-client.ts';

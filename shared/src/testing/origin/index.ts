// For tests only: a signed repository in memory, the records of an origin, and servers that misbehave on command.
export { FakeOrigin, fieldOf, listOf } from './fake-origin.ts';
export { FakeServer, type SiteRequest } from './fake-server.ts';
export { type Fault, faultAt, type Misbehaviour } from './faults.ts';
export { FleetRepository, type PublishedImage } from './fleet-repository.ts';
export { OriginRecords } from './origin-records.ts';

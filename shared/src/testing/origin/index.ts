// For tests only: an origin in memory, what it signs, and servers that serve it and misbehave where a test says so.
export { FakeOrigin, fieldOf, listOf } from './fake-origin.ts';
export { FakeServer, type SiteRequest } from './fake-server.ts';
export { type Fault, faultAt, type Misbehaviour } from './faults.ts';
export { FleetRepository, type PublishedImage } from './fleet-repository.ts';
export { OriginRecords } from './origin-records.ts';

# One image for all four commands; docker-compose.yml says which container runs which.
FROM node:26-trixie-slim AS build
RUN apt-get update \
  && apt-get install -y --no-install-recommends g++ make python3 \
  && rm -rf /var/lib/apt/lists/*
# The native zstd module is compiled here, against the headers that come with the image, not downloaded as a binary.
ENV npm_config_build_from_source=zstd-napi npm_config_nodedir=/usr/local
WORKDIR /opt/sitecast
COPY . .
# `npm ci` compiles TypeScript too (the `prepare` script); what only that needed goes afterwards.
RUN npm ci && npm prune --omit=dev && rm -rf node_modules/@sitecast/test test */bundle/*.map

FROM node:26-trixie-slim
ENV NODE_ENV=production PATH=/opt/sitecast/node_modules/.bin:$PATH
# Empty volumes take owner and mode from these directories. Number 1000 is the base image's user `node`.
RUN install -d -m 0700 -o 1000 -g 1000 \
  /var/lib/sitecast-origin /var/lib/sitecast-gateway /var/lib/sitecast-agent /var/lib/sitecast-operator \
  /var/lib/sitecast-join
# Owned by root: a process that was broken into can't change its own program.
COPY --from=build /opt/sitecast/package.json /opt/sitecast/package.json
COPY --from=build /opt/sitecast/node_modules /opt/sitecast/node_modules
COPY --from=build /opt/sitecast/shared /opt/sitecast/shared
COPY --from=build /opt/sitecast/origin /opt/sitecast/origin
COPY --from=build /opt/sitecast/gateway /opt/sitecast/gateway
COPY --from=build /opt/sitecast/agent /opt/sitecast/agent
USER 1000:1000
WORKDIR /var/lib/sitecast-operator
# No ENTRYPOINT and no HEALTHCHECK: both depend on the role, so they stand in docker-compose.yml.
CMD ["sitecast", "--help"]

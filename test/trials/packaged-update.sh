#!/bin/sh
# In a root with all three packages: an origin and a gateway under their own accounts, and an agent, bring one release to one device. It
# prints `installed` when the rollout is completed and the slot holds the image.
set -eu
[ -d "$1" ] || { echo "usage: packaged-update.sh DIRECTORY" >&2; exit 2; }
cd "$1"
pids=
trap 'kill $pids 2>/dev/null || true; wait' EXIT
as() {
  account=$1
  shift
  # It becomes the command: the process that is ended is the daemon itself.
  exec setpriv --reuid="$account" --regid="$account" --clear-groups "$@"
}
# Waits for the address that a daemon says it listens on.
address_in() {
  for _ in $(seq 600); do
    url=$(sed -n 's/.*listens on \(http[^ ,]*\).*/\1/p' "$1" | head -n 1)
    [ -z "$url" ] || { echo "$url"; return; }
    sleep 0.2
  done
  cat "$1" >&2
  return 1
}

(as sitecast-origin sitecast-origin serve --data /var/lib/sitecast-origin --listen 127.0.0.1:0) >origin.log 2>&1 &
pids="$pids $!"
origin=$(address_in origin.log)
sitecast keys create root --no-passphrase >/dev/null
sitecast keys create release --no-passphrase >/dev/null
sitecast init --origin "$origin" --token-file /var/lib/sitecast-origin/admin.token >/dev/null
sitecast token create --join --kind gateway --site north --out gateway.token >/dev/null
sitecast token create --join --kind device --product camera --out device.token >/dev/null

# As the unit's LoadCredential does.
install -o sitecast-gateway -m 0400 gateway.token /etc/sitecast/gateway.token
(as sitecast-gateway sitecast-gateway serve --data /var/lib/sitecast-gateway --listen 127.0.0.1:0 \
  --token-file /etc/sitecast/gateway.token --no-mdns) >gateway.log 2>&1 &
pids="$pids $!"
gateway=$(address_in gateway.log)

truncate -s 4M slot-a slot-b
cat >/etc/sitecast/agent.yaml <<YAML
data: /var/lib/sitecast-agent
gateway: ["$gateway"]
token-file: $PWD/device.token
product: camera
hardware: board
slot-a: $PWD/slot-a
slot-b: $PWD/slot-b
health-command: cmp -n 2000000 "\$SITECAST_SLOT" $PWD/image
no-peers: true
poll: 1s
log-format: text
YAML
sitecast-agent run --config /etc/sitecast/agent.yaml >agent.log 2>&1 &
pids="$pids $!"
head -c 2000000 /dev/urandom >image
sitecast release publish image --product camera --version 1.0.0 --hardware board >/dev/null
for _ in $(seq 600); do
  sitecast device list --json | grep -q '"product":"camera"' && break
  sleep 0.2
done
rollout=$(sitecast rollout start camera 1.0.0 --all-at-once --json | sed -n 's/.*"id":"\([0-9a-f]*\)".*/\1/p')
for _ in $(seq 600); do
  if sitecast rollout status "$rollout" --json | grep -q '"state":"completed"'; then
    cmp -n 2000000 slot-b image
    echo installed
    exit
  fi
  sleep 0.2
done
tail -n 20 origin.log gateway.log agent.log >&2
exit 1

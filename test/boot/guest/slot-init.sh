#!/bin/busybox sh
# PID 1 of a slot. /etc/version and /etc/behaviour come from the image; all else is the same in every image.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
exec </dev/ttyS0 >/dev/ttyS0 2>&1
for word in $(cat /proc/cmdline); do
  case $word in sitecast.slot=*) slot=${word#sitecast.slot=} ;; esac
done
echo "INIT slot $slot runs release $(cat /etc/version)"
case $(cat /etc/behaviour) in
  hang)
    # Opening arms the watchdog. It is fed once, its time-out is 15 seconds, and this process does nothing else.
    echo "INIT slot $slot hangs"
    watchdog -F -T 15 -t 86400 /dev/watchdog
    ;;
  panic)
    echo "INIT slot $slot panics"
    exit 1
    ;;
esac
# Closed without the letter V it goes on: whatever hangs from here on, the machine boots again, unless the agent feeds it.
: >/dev/watchdog
# As systemd does. After a power cut the counts of free blocks may be wrong, and Linux then takes no block from such a group.
e2fsck -p /dev/vda1
mount -t ext4 /dev/vda1 /boot
mount -t ext4 /dev/vda4 /data
mount -t ext4 -o ro /dev/vdb /runtime
ip link set lo up
# QEMU's user network is always this one; the host's loopback is 10.0.2.2.
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
while :; do
  /runtime/node /opt/sitecast/agent/bin/sitecast-agent.js run --config /data/agent.yaml
  echo "INIT the agent ended with $?"
  sleep 1
done

#!/bin/busybox sh
# PID 1 of the initramfs: loads the modules, mounts the slot that GRUB chose, and hands over to it.
# Where something fails this process ends, the kernel panics, and panic= boots the machine again.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
while read -r module options; do /bin/busybox insmod "/modules/$module" $options; done </modules/list
for word in $(/bin/busybox cat /proc/cmdline); do
  case $word in root=*) root=${word#root=} ;; esac
done
# Disks appear some time after their module is loaded.
waits=0
while [ ! -b "$root" ] && [ $waits -lt 600 ]; do
  /bin/busybox usleep 100000
  waits=$((waits + 1))
done
/bin/busybox mount -t ext4 -o ro "$root" /slot || echo "INITRAMFS can't mount $root" >/dev/console
/bin/busybox mount --move /dev /slot/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /slot /init

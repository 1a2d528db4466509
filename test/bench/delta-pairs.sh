#!/usr/bin/env bash
# Builds pairs of old and new images from Debian bookworm, for `npm run bench -- delta`: a large program, a kernel with its modules, and a root
# file system before and after its security updates; each tree as ext4 and as squashfs. The same packages give the same images.
# usage: delta-pairs.sh OUTDIR    (as root, with apt-get, debootstrap, mksquashfs, mkfs.ext4; Debian keeps the newest versions only: see the variables)
set -euo pipefail
out=$(realpath -m "${1:?folder}")
work=$out/.work
normalize="node $(dirname "$(realpath "$0")")/../dist/bench/delta-ext4.js"
mkdir -p "$work"
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000 LC_ALL=C
uuid=11111111-2222-3333-4444-555555555555
kernel_old=${KERNEL_OLD:-6.1.0-50-cloud-amd64}
kernel_new=${KERNEL_NEW:-6.1.0-56-cloud-amd64}
node_old=${LIBNODE_OLD:-18.20.4+dfsg-1~deb12u2}
node_new=${LIBNODE_NEW:-18.20.4+dfsg-1~deb12u3}
# A libzstd whose blocks differ from those of the encoder that agents have.
zstd_newer=${LIBZSTD_NEWER:-1.5.7+dfsg-1}
zstd_newer_sha256=${LIBZSTD_NEWER_SHA256:-2f6a2aeacfc925eba8b00ac9139bc4bfccf8cacb09eb93de067074b26948eef9}
packages=systemd-sysv,udev,openssh-server,openssl,ca-certificates,curl,python3-minimal,iproute2,dbus
# Of the mirrors that this machine's apt uses, the first one of Debian's security updates, and the first other one.
mirrors=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u)
mirror=${DEBIAN_MIRROR:-$(grep -v security <<<"$mirrors" | head -1)}
security=${DEBIAN_SECURITY:-$(grep security <<<"$mirrors" | head -1)}

ext4() { # TREE IMAGE SIZE
  rm -f "$2"
  truncate -s "$3" "$2"
  mkfs.ext4 -q -F -b 4096 -d "$1" -U $uuid -E hash_seed=$uuid,root_owner=0:0,lazy_itable_init=0 \
    -O ^has_journal,^metadata_csum,^metadata_csum_seed -m 0 "$2"
  $normalize "$2" $SOURCE_DATE_EPOCH
}

squashfs() { # TREE IMAGE OPTIONS…
  local tree=$1 image=$2
  shift 2
  rm -f "$image"
  env -u SOURCE_DATE_EPOCH mksquashfs "$tree" "$image" -noappend -no-progress -quiet -b 131072 -processors 1 \
    -all-time $SOURCE_DATE_EPOCH -mkfs-time $SOURCE_DATE_EPOCH "$@" >/dev/null
}

images() { # NAME: from its two trees
  local one other mebibytes side
  for side in old new; do find "$work/$1-$side" -xdev -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; done
  one=$(du -sk "$work/$1-old" | cut -f1)
  other=$(du -sk "$work/$1-new" | cut -f1)
  mebibytes=$((((one > other ? one : other) * 115 / 100 / 1024 / 8 + 1) * 8))
  for side in old new; do
    ext4 "$work/$1-$side" "$out/$1-$side.ext4" ${mebibytes}M
    squashfs "$work/$1-$side" "$out/$1-$side.squashfs" -comp zstd -Xcompression-level 15
  done
}

cd "$work"
apt-get -q download "libnode108=$node_old" "libnode108=$node_new" "linux-image-$kernel_old" "linux-image-$kernel_new" >/dev/null

for side in old new; do
  version=node_$side
  rm -rf "node-$side"
  dpkg-deb -x "libnode108_${!version}_amd64.deb" "node-$side"
  cp -L "$(find "node-$side" -name libnode.so.108 | head -1)" "$out/libnode-$side.bin"
  version=kernel_$side
  rm -rf "kernel-$side"
  dpkg-deb -x linux-image-"${!version}"_*_amd64.deb "kernel-$side"
  rm -rf "kernel-$side"/usr/share/{doc,bug}
  mv "kernel-$side/boot/vmlinuz-${!version}" "kernel-$side/boot/vmlinuz"
done
images kernel

rm -rf rootfs-old rootfs-new
debootstrap --variant=minbase --include=$packages bookworm rootfs-old "$mirror" >debootstrap.log 2>&1
cp -a rootfs-old rootfs-new
printf 'deb %s bookworm main\ndeb %s bookworm-updates main\ndeb %s bookworm-security main\n' "$mirror" "$mirror" "$security" >rootfs-new/etc/apt/sources.list
cp /etc/resolv.conf /etc/hosts rootfs-new/etc/
cp -r /etc/apt/apt.conf.d/. rootfs-new/etc/apt/apt.conf.d/
chroot rootfs-new env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get -q update && apt-get -q -y dist-upgrade' >upgrade.log 2>&1
for side in old new; do
  (
    cd "rootfs-$side"
    rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/ldconfig var/cache/debconf/*-old var/lib/dpkg/*-old usr/share/{doc,man,locale,info}
    rm -rf tmp/* run/* dev/* etc/apt/apt.conf.d etc/apt/sources.list etc/resolv.conf etc/hosts etc/ssh/ssh_host_* root/.[a-z]*
    rm -f var/lib/dbus/machine-id
    : >etc/machine-id
    find . -name '*.pyc' -delete
    find . -name __pycache__ -empty -delete
  )
done
images rootfs
# Squashfs by compressors whose blocks may not be opened by all devices, and one that none opens.
for compressor in gzip xz lzo; do
  for side in old new; do squashfs "rootfs-$side" "$out/rootfs-$compressor-$side.squashfs" -comp $compressor; done
done
# Compressors that are known, with encoders that agents lack: a strategy of zlib that isn't the usual one, and a newer libzstd.
for side in old new; do
  squashfs "rootfs-$side" "$out/rootfs-filtered-$side.squashfs" -comp gzip -Xstrategy filtered
done
if [ "$(dpkg --print-architecture)" = amd64 ]; then
  rm -rf zstd-newer
  /usr/lib/apt/apt-helper download-file "$mirror/pool/main/libz/libzstd/libzstd1_${zstd_newer}_amd64.deb" \
    "$work/zstd-newer.deb" "SHA256:$zstd_newer_sha256" >/dev/null
  dpkg-deb -x zstd-newer.deb zstd-newer
  for side in old new; do
    LD_LIBRARY_PATH=$work/zstd-newer/usr/lib/x86_64-linux-gnu \
      squashfs "rootfs-$side" "$out/rootfs-newer-zstd-$side.squashfs" -comp zstd -Xcompression-level 15
  done
fi
touch "$out/complete"

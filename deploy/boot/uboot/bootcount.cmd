# Sitecast: the same choice for a U-Boot that counts its starts itself (CONFIG_BOOTCOUNT_LIMIT and CONFIG_BOOTCOUNT_ENV), with
# `sitecast-agent --boot uboot --boot-variables bootcount`. docs/BOOT.md explains it. Compile it as boot.cmd, and let both commands run it:
#   bootcmd=load mmc 0:1 ${scriptaddr} boot.scr && source ${scriptaddr}
#   altbootcmd=slot_tried_out=yes; run bootcmd
#
# State, in the environment:
#   boot_slot             A or B
#   upgrade_available=1   it is on trial: U-Boot adds 1 to bootcount at each start, and runs altbootcmd once that is more than bootlimit

# --- What differs from board to board: as in boot.cmd ---
test -n "${devtype}" || devtype=mmc
test -n "${devnum}" || devnum=0
test -n "${A_PART}" || A_PART=2
test -n "${B_PART}" || B_PART=3
test -n "${A_ROOT}" || A_ROOT=PARTLABEL=slot-a
test -n "${B_ROOT}" || B_ROOT=PARTLABEL=slot-b
test -n "${slot_kernel}" || slot_kernel=boot/Image
test -n "${slot_args}" || slot_args="ro rootwait quiet panic=10"

test -n "${boot_slot}" || boot_slot=A

# The trial is over: the other slot, for good. Where that can't be saved, the next start comes here again.
if test "${slot_tried_out}" = yes; then
  if test "${boot_slot}" = A; then setenv boot_slot B; else setenv boot_slot A; fi
  setenv upgrade_available 0
  setenv bootcount 0
  if test -n "${slot_save}"; then run slot_save; else saveenv; fi
fi

if test "${boot_slot}" = A; then
  slot_part=${A_PART}
  slot_root=${A_ROOT}
else
  slot_part=${B_PART}
  slot_root=${B_ROOT}
fi
echo "Sitecast: starting slot ${boot_slot}"
setenv bootargs root=${slot_root} sitecast.slot=${boot_slot} ${slot_args}
if test -n "${slot_start}"; then
  run slot_start
else
  load ${devtype} ${devnum}:${slot_part} ${kernel_addr_r} ${slot_kernel} && booti ${kernel_addr_r} - ${fdtcontroladdr}
fi

# On trial, the next start counts again, until the other slot's turn comes.
echo "Sitecast: slot ${boot_slot} does not start"
sleep 10
reset

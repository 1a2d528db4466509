# Sitecast: U-Boot chooses between two slots, and counts the starts of the one on trial. docs/BOOT.md explains it.
# Compile it with `mkimage -A arm64 -T script -C none -d boot.cmd boot.scr`. U-Boot needs the commands setexpr, saveenv, load, booti.
#
# State, in the environment; `sitecast-agent --boot uboot` writes it with fw_setenv:
#   BOOT_ORDER                 slots to start, the first first: "B A" while B is on trial, "B" once it is good
#   BOOT_A_LEFT, BOOT_B_LEFT   so many more starts; 0: the slot is closed
# The last slot of BOOT_ORDER isn't counted: nothing comes after it.

# --- What differs from board to board: set it in the environment, which no release replaces ---
# Names that are set without setenv are the shell's own: saveenv doesn't keep them. What the environment says counts more.
test -n "${devtype}" || devtype=mmc
test -n "${devnum}" || devnum=0
test -n "${A_PART}" || A_PART=2
test -n "${B_PART}" || B_PART=3
test -n "${A_ROOT}" || A_ROOT=PARTLABEL=slot-a
test -n "${B_ROOT}" || B_ROOT=PARTLABEL=slot-b
test -n "${slot_kernel}" || slot_kernel=boot/Image
# panic: a kernel that gives up boots again, so that the next start is counted.
test -n "${slot_args}" || slot_args="ro rootwait quiet panic=10"
# slot_start (optional): commands that load and start the kernel of ${slot_part}, and come back where they can't.
# slot_save (optional): commands that keep the variables instead of saveenv, and fail where they can't.

# --- What holds where the environment says nothing: it is new, or both copies are damaged ---
test -n "${BOOT_ORDER}" || BOOT_ORDER=A
test -n "${BOOT_A_LEFT}" || BOOT_A_LEFT=3
test -n "${BOOT_B_LEFT}" || BOOT_B_LEFT=3

for name in ${BOOT_ORDER}; do
  slot_last=${name}
done

# --- The first slot that has a start left and whose kernel loads. Then the one that BOOT_ORDER doesn't name, unless it is closed ---
for name in ${BOOT_ORDER} A B; do
  if test "${name}" = A; then
    slot_part=${A_PART}
    slot_root=${A_ROOT}
    slot_left=${BOOT_A_LEFT}
  else
    slot_part=${B_PART}
    slot_root=${B_ROOT}
    slot_left=${BOOT_B_LEFT}
  fi

  slot_go=no
  if test "${name}" = "${slot_last}"; then
    slot_go=yes
  elif test "${slot_left}" -gt 0; then
    # A start counts before it happens. What can't be counted isn't started: it could go on for ever.
    if test "${name}" = A; then
      setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
    else
      setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
    fi
    if test -n "${slot_save}"; then
      if run slot_save; then slot_go=yes; fi
    else
      if saveenv; then slot_go=yes; fi
    fi
  fi

  if test "${slot_go}" = yes; then
    echo "Sitecast: starting slot ${name}"
    setenv bootargs root=${slot_root} sitecast.slot=${name} ${slot_args}
    if test -n "${slot_start}"; then
      run slot_start
    else
      load ${devtype} ${devnum}:${slot_part} ${kernel_addr_r} ${slot_kernel} && booti ${kernel_addr_r} - ${fdtcontroladdr}
    fi
    echo "Sitecast: slot ${name} does not start"
  fi
done

echo "Sitecast: no slot starts"
sleep 10
reset

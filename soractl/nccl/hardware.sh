#!/bin/sh
# hardware.sh ROOT HEAD ENVIRONMENT: what NCCL's settings are about, a line of fields each.
# ROOT is empty on a node; tests give a folder with sys, proc and etc. HEAD is the head node's name.
export LC_ALL=C
root=$1 head=$2 environment=$3

get() { # FILE: its first line, or nothing
  [ -r "$1" ] && IFS= read -r line < "$1" 2> /dev/null && printf '%s' "$line"
}
path_of() { # LINK: where in the tree of devices it ends
  target=$(readlink -f "$1" 2> /dev/null) && printf '%s' "${target#"$root"}"
}
for port in "$root"/sys/class/infiniband/*/ports/*; do
  [ -d "$port" ] || continue
  card=${port%/ports/*}
  netdevs=
  for netdev in "$card"/device/net/*; do [ -e "$netdev" ] && netdevs="$netdevs ${netdev##*/}"; done
  echo "hca|${card##*/}|${port##*/}|$(get "$port/state")|$(get "$port/rate")|$(get \
    "$port/link_layer")|$netdevs|$(get "$card/device/numa_node")|$(path_of "$card/device")"
done
command -v ip > /dev/null 2>&1 && echo "tool|ip"
for nic in "$root"/sys/class/net/*; do
  [ -e "$nic" ] || continue
  name=${nic##*/}
  addresses=$(ip -o address show dev "$name" 2> /dev/null | while read -r _ _ family address _; do
    case $family in inet | inet6) printf '%s ' "$address" ;; esac
  done)
  physical=no
  [ -e "$nic/device" ] && physical=yes
  echo "nic|$name|$(get "$nic/operstate")|$(get "$nic/speed" 2> /dev/null)|$physical|$addresses"
done
for gpu in "$root"/sys/bus/pci/devices/*; do
  case $(get "$gpu/vendor")$(get "$gpu/class") in
    0x10de0x0302* | 0x10de0x0300*)
      echo "gpu|${gpu##*/}|$(get "$gpu/numa_node")|$(path_of "$gpu")"
      ;;
  esac
done
address=$(getent ahosts "$head" 2> /dev/null | { read -r first _ && echo "$first"; })
echo "route|$(ip -o route get "${address:-$head}" 2> /dev/null)"
echo "cores|$(get "$root/sys/devices/system/cpu/online")"
for module in nvidia_peermem nv_peer_mem; do
  [ -d "$root/sys/module/$module" ] && echo "module|$module"
done
for packages in "$environment"/../lib/python3*/site-packages; do
  for folder in "$packages"/nvidia_nccl_*.dist-info "$packages"/torch-*.dist-info; do
    [ -d "$folder" ] && echo "package|${folder##*/}"
  done
done
for library in "$root"/usr/lib/*/libnccl.so.2.*; do
  [ -e "$library" ] && echo "library|nvidia_nccl_system-${library##*libnccl.so.}"
done
for file in "$root/etc/nccl.conf" "$HOME/.nccl.conf"; do
  [ -r "$file" ] || continue
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in '' | '#'*) ;; *) echo "conf|$file|$line" ;; esac
  done < "$file"
done
echo end

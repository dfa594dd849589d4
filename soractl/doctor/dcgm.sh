#!/bin/sh
# dcgm.sh LEVEL LIMIT_S: `dcgmi diag` of this node, unless a process uses one of its GPUs.
export LC_ALL=C
command -v dcgmi > /dev/null || { printf '=== absent 0\n'; exit; }
used=$(timeout -k 1 30 nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader 2>&1)
code=$?
if [ "$code" != 0 ] || [ -n "$used" ]; then
  printf '%s\n=== used %s\n' "$used" "$code"
  exit
fi
timeout -k 5 "$2" dcgmi diag -r "$1" -j 2>&1 < /dev/null
printf '\n=== dcgm %s\n' $?

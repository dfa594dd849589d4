#!/bin/sh
# stop.sh: TERM to processes, then KILL. Lists hold PID:START pairs, so that a number that was
# given to a new process is left alone; times are fifths of a second.
: "${all?}" "${first?}" "${torchruns?}" # lists, set by who sends this
: "${settle:?}" "${grace:?}" "${patience:?}"
# Succeeds if a process lives and is the one that started then (fields 3 and 22 of its stat).
same() {
  line=
  # The name, in brackets, may hold line ends and brackets of its own.
  while IFS= read -r part; do line="$line $part"; done 2> /dev/null < "/proc/${1%:*}/stat"
  # shellcheck disable=SC2086 # words are wanted
  set -- "${1#*:}" ${line##*) }
  case ${2:-X} in Z | X) return 1 ;; esac
  [ "${21}" = "$1" ]
}
# Leaves in `left` which of these still live.
living() { left=; for one in $1; do same "$one" && left="$left $one"; done; [ -n "$left" ]; }
await() {
  turns=$1
  while living "$all" && [ "$turns" -gt 0 ]; do
    sleep 0.2
    turns=$((turns - 1))
  done
}
send() { for one in $2; do same "$one" && kill -s "$1" "${one%:*}" 2>/dev/null; done; }
send TERM "$first"
while living "$all" && [ "$grace" -gt 0 ]; do
  # torchrun ends by itself after its ranks, and launchers a moment after it, to note its exit
  # code; what stays on after that gets its TERM from us.
  living "$first $torchruns" || settle=$((settle - 1))
  [ "$settle" -eq 0 ] && living "$all" && send TERM "$left"
  sleep 0.2
  grace=$((grace - 1))
done
# shellcheck disable=SC2086 # words are wanted
killed=$(
  set -- $left
  echo $#
)
# torchrun gets TERM before it sees its ranks go, or it would blame one of them.
send TERM "$torchruns"
send KILL "$first"
await "$settle"
send KILL "$left"
await "$patience"
echo "=== killed $killed"
held() {
  for pid in $(timeout -k 1 3 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>&1); do
    case " $all" in *" $pid:"*) echo "$pid" ;; esac
  done
}
holding=
# The driver lists a process, and counts its memory, for a moment after its end.
if command -v nvidia-smi > /dev/null; then
  for pause in 0.1 0.4 1 2 0; do
    holding=$(held)
    [ -z "$holding" ] && break
    sleep $pause
  done
fi
echo "$holding"
echo "=== holding 0"

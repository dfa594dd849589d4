#!/bin/sh
# ask_ranks.sh: every rank of a run on this node writes its trace at a signal. A line for each rank:
# rank, process, parent, state, 1 if the signal is blocked there, the trace (gzip, base64) or "-".
: "${run_id:?}" "${traces:?}" "${signal:?}" "${suffix?}" "${ticks:?}" # set by who sends this
export LC_ALL=C
ranks=
# Workers and helpers of a rank carry its environment too; only a rank has train.py as an argument.
# shellcheck disable=SC2013  # names in /proc have no spaces
for file in $(grep -lazsE '(^|/)train\.py$' /proc/[0-9]*/cmdline); do
  folder=${file%/cmdline}
  grep -qzsxF "SORACTL_RUN_ID=$run_id" "$folder/environ" || continue
  rank=$(tr '\0' '\n' < "$folder/environ" 2> /dev/null | sed -n 's/^RANK=\([0-9]*\)$/\1/p')
  [ -n "$rank" ] || continue
  # shellcheck disable=SC2046 # words are wanted
  set -- $(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p; s/^PPid:[[:space:]]*//p; s/^SigBlk:[[:space:]]*//p' \
    "$folder/status" 2> /dev/null)
  [ $# = 3 ] || continue
  blocked=$((0x$3 >> (signal - 1) & 1))
  ranks="$ranks $rank:${folder#/proc/}:$2:$1:$blocked"
  [ "$blocked" = 1 ] || continue # it would end at the signal
  rm -f -- "$traces/rank-$rank$suffix.json"
  kill "-$signal" "${folder#/proc/}"
done
while [ "$ticks" -gt 0 ]; do
  missing=
  for one in $ranks; do
    [ "${one##*:}" = 0 ] || [ -e "$traces/rank-${one%%:*}$suffix.json" ] || missing=1
  done
  [ -n "$missing" ] || break
  sleep 0.1
  ticks=$((ticks - 1))
done
for one in $ranks; do
  file="$traces/rank-${one%%:*}$suffix.json"
  text=
  [ "${one##*:}" = 1 ] && text=$({ gzip -c < "$file" | base64 | tr -d '\n'; } 2> /dev/null)
  echo "$one" | tr ':\n' '  '
  echo "${text:--}"
done
echo "=== ranks 0"

#!/bin/sh
# look.sh: one node's part in an attempt: its processes, its clock, its exit code.
: "${run_id:?}" "${exit_file:?}" # set by who sends this
pids=$(grep -lzxF "SORACTL_RUN_ID=$run_id" /proc/[0-9]*/environ 2> /dev/null | cut -d / -f 3)
count=0
ranks=0
agents=0
oldest=
for pid in $pids; do
  line=
  while IFS= read -r part; do line="$line $part"; done 2> /dev/null < "/proc/$pid/stat"
  # shellcheck disable=SC2086 # words are wanted
  set -- ${line##*) }
  case ${1:-X} in Z | X) continue ;; esac
  count=$((count + 1))
  # Launchers have no rank, and a rank's workers are not started as train.py.
  if grep -qz '^RANK=' "/proc/$pid/environ" && grep -qz 'train\.py$' "/proc/$pid/cmdline"; then
    ranks=$((ranks + 1))
  elif tr '\0' '\n' < "/proc/$pid/cmdline" | head -n 3 | grep -qE '(/|^)torch(run|\.distributed\.run)$'; then
    agents=$((agents + 1))
  fi 2> /dev/null
  if [ -z "$oldest" ] || [ "${20}" -lt "$oldest" ]; then oldest=${20}; fi
done
echo "=== processes $count"
echo "=== ranks $ranks"
echo "=== agents $agents"
if [ -n "$oldest" ]; then
  read -r up _ < /proc/uptime
  echo "=== age $((${up%.*} - oldest / $(getconf CLK_TCK || echo 100)))"
fi
# What this user may not read is unknown, not absent.
me=$(id -u)
owner=$(stat -c %u -- "$(dirname -- "$exit_file")" 2> /dev/null || echo "$me")
if [ "$me" != 0 ] && [ "$me" != "$owner" ]; then
  id -un -- "$owner" 2> /dev/null || echo "user $owner"
  echo "=== hidden $owner"
fi
echo "=== clock $(date +%s)"
# The exit code is asked for last: a node's script writes it while it still lives.
# One that is there and cannot be read is not one that is not there.
code=$(cat -- "$exit_file" 2> /dev/null) || {
  [ ! -e "$exit_file" ] || { sleep 0.3 && code=$(cat -- "$exit_file" 2> /dev/null); } ||
    echo "=== unread 1"
}
[ -z "$code" ] || echo "=== exit $code"
exit 0

#!/bin/bash
# stacks.sh: Python stacks of a run's ranks and loader workers on this node, taken from outside.
# A line for each process: rank, process, role, state, exit code, what the tool printed (gzip,
# base64). `pids` are the processes that are wanted; empty: all.
# shellcheck disable=SC2154 # these are set by who sends this
: "${run_id:?}" "${tool:?}" "${pids?}" "${limit_s:?}"
export LC_ALL=C
command -v "$tool" > /dev/null || { echo "=== missing 1"; exit 0; }
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
found=
# shellcheck disable=SC2013  # names in /proc have no spaces
for file in $(grep -lazsE '(^|/)train\.py$|spawn_main' /proc/[0-9]*/cmdline); do
  pid=${file#/proc/} pid=${pid%/cmdline}
  case " ${pids:-$pid} " in *" $pid "*) ;; *) continue ;; esac
  grep -qzsxF "SORACTL_RUN_ID=$run_id" "/proc/$pid/environ" || continue
  rank=$(tr '\0' '\n' < "/proc/$pid/environ" 2> /dev/null | sed -n 's/^RANK=\([0-9]*\)$/\1/p')
  [ -n "$rank" ] || continue
  role=rank
  grep -qzs spawn_main "/proc/$pid/cmdline" && role=worker
  state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2> /dev/null)
  [ -n "$state" ] || continue
  found="$found $rank:$pid:$role:$state"
  case $tool in
    pystack) words="pystack remote --no-color --no-block" ;;
    *) words="py-spy dump --json --pid" ;;
  esac
  # what is stopped cannot be stopped again, which py-spy would do to read it
  [ "$tool" = py-spy ] && [ "$state" = T ] && words="py-spy dump --json --nonblocking --pid"
  # shellcheck disable=SC2086 # words are wanted
  { timeout "$limit_s" $words "$pid" > "$folder/$pid" 2>&1; echo $? > "$folder/$pid.code"; } &
done
wait
for one in $found; do
  IFS=: read -r rank pid role state <<< "$one"
  echo "$rank $pid $role $state $(cat "$folder/$pid.code") $(gzip -c < "$folder/$pid" | base64 | tr -d '\n')"
done
echo "=== processes 0"
cat /proc/sys/kernel/yama/ptrace_scope 2> /dev/null || echo 0
echo "=== ptrace 0"

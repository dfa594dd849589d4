#!/bin/bash
# evidence.sh: facts of one node that may explain a hang; none of them touches the run.
: "${folder:?}" # of the run; set by who sends this
export LC_ALL=C
hostname -I 2> /dev/null
echo "=== addresses 0"
if command -v nvidia-smi > /dev/null; then timeout 8 nvidia-smi -q; fi
echo "=== nvidia $?"
{ dmesg --time-format iso || dmesg || journalctl -k -o short-iso --no-pager; } 2> /dev/null \
  | grep -E 'NVRM|Out of memory|oom-kill|Killed process|I/O error|nfs: server|Hardware Error|link is' \
  | tail -n 60
echo "=== kernel ${PIPESTATUS[0]}"
timeout 3 df -P -k -- "$folder" /tmp /dev/shm 2>&1
timeout 3 df -P -i -- "$folder" 2>&1
echo "=== disk 0"
ss -tinoH state established 2>&1
echo "=== sockets $?"
now=$(date +%s)
echo "$now" # as text too: evidence keeps the texts
echo "=== clock $now"
uptime
head -n 5 /proc/meminfo
echo "=== load 0"

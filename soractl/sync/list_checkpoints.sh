#!/bin/sh
# list_checkpoints.sh RUN: files and manifest of each checkpoint of a run, one fact a line.
: "${any_checkpoint:?}" "${manifest:?}" # names of the trainer's files, set by who sends this
cd -- "$1/checkpoints" 2>/dev/null || exit 0
for c in $any_checkpoint/; do
  c=${c%/}
  [ -d "$c" ] || continue
  echo "checkpoint $c"
  find "$c" -type f -printf 'file %s %P\n'
  [ ! -f "$c/$manifest" ] || { printf 'manifest '; tr -d '\n' < "$c/$manifest"; echo; }
done

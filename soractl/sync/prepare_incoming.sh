#!/bin/sh
# prepare_incoming.sh CHECKPOINTS KEPT...: make incoming folders, delete abandoned ones.
mkdir -p -- "$1" && cd -- "$1" || exit
shift
[ $# = 0 ] || mkdir -p -- "$@"
for folder in .incoming-*; do
  for kept do [ "$folder" != "$kept" ] || continue 2; done
  rm -rf -- "$folder"
done

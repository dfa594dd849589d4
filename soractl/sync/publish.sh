#!/bin/sh
# publish.sh CHECKPOINTS NAME BYTES: the manifest on stdin completes an incoming checkpoint.
: "${manifest:?}" "${replaced:?}" # names of the trainer's files, set by who sends this
set -e
cd -- "$1"
cat > ".incoming-$2/.$manifest"
# who sends it may be killed before its end
[ "$(stat -c %s -- ".incoming-$2/.$manifest")" = "$3" ]
find ".incoming-$2" -type f -exec sync -d -- {} +
mv -f -- ".incoming-$2/.$manifest" ".incoming-$2/$manifest"
rm -rf -- "$replaced$2"
[ ! -e "$2" ] || mv -T -- "$2" "$replaced$2"
mv -T -- ".incoming-$2" "$2"
sync -- .
rm -rf -- "$replaced$2"

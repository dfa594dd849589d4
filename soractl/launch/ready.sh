#!/bin/sh
# ready.sh: one sentence and the end unless this node has what an attempt needs.
: "${path:?}" "${folder:?}" "${file:?}" # set by who sends this; what comes after it runs if all is well
missing() {
  echo "error: $*" >&2
  exit 1
}
cd -- "$folder" 2> /dev/null || missing "there is no folder $folder"
[ -r "$file" ] || missing "there is no $file; all nodes must share the folders of code and runs"
for program in colossalai torchrun python3; do
  PATH=$path command -v "$program" > /dev/null || missing "no $program in $path"
done

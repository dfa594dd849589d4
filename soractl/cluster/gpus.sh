#!/bin/sh
# gpus.sh LIMIT_S GPU_FIELDS APP_FIELDS: what nvidia-smi says, owners and runs of the processes.
# Both queries run at once: each takes about a second where the driver is not kept loaded.
export LC_ALL=C
limit_s=$1 fields=$2 app_fields=$3
echo '=== start 0'
query() { timeout -k 1 "$limit_s" nvidia-smi "$1" --format=csv,noheader,nounits 2>&1; }

# An older driver refuses all for one field that it does not know: asked again without it.
query_gpus() {
  while gpus=$(query "--query-gpu=$fields"); code=$?; [ $code != 0 ]; do
    refused=$(printf '%s\n' "$gpus" | sed -n 's/^Field "\([a-z._]*\)" is not a valid field.*/\1/p')
    case ",$fields," in
      *",$refused,"*) [ -n "$refused" ] || break ;;
      *) break ;;
    esac
    fields=$(printf ',%s,' "$fields" | sed "s/,$refused,/,/; s/^,//; s/,$//")
  done
  printf '%s\n=== fields 0\n%s\n=== gpus %s\n' "$fields" "$gpus" $code
}
query_gpus &
apps=$(query "--query-compute-apps=$app_fields"); code=$?
wait
printf '%s\n=== apps %s\n' "$apps" $code

set --
while IFS=', ' read -r pid _; do
  case $pid in ''|*[!0-9]*) ;; *) set -- "$@" "/proc/$pid" ;; esac
done <<END
$apps
END
[ $# -gt 0 ] || exit 0
stat -c '%n %U' "$@" 2>/dev/null
echo '=== owners 0'
for folder; do shift; set -- "$@" "$folder/environ"; done
grep -azHs '^SORACTL_RUN_ID=' "$@" | tr '\0' '\n'
echo '=== runs 0'

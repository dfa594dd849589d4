#!/bin/sh
# probe.sh EVERY_MS GPU_FIELDS [ROOT]: the numbers of a node, a line for each line `look` on stdin.
# Records have tabs between them, their fields spaces; `?` cannot be read. A look starts no process:
# nvidia-smi runs all the time and prints by itself, every EVERY_MS. ROOT stands before /proc, /sys.
export LC_ALL=C
every_ms=$1 fields=$2 root=$3
tab=$(printf '\t')
smi='' count=0 before_count=0 gpus='' before='' at='' before_at='' last=999999 odd='' is_new=''

# Both speak into one pipe, so that neither is waited for; the end of stdin ends nvidia-smi.
sources() {
  if command -v nvidia-smi > /dev/null 2>&1; then
    buffer='' # each line when it is printed, whatever the program does with a pipe
    ! command -v stdbuf > /dev/null 2>&1 || buffer='stdbuf -oL'
    # shellcheck disable=SC2086  # two words, or none
    $buffer nvidia-smi "--query-gpu=$fields" --format=csv,noheader,nounits -lms "$every_ms" \
      < /dev/null 2>&1 &
    smi=$!
    echo "smi $smi"
  fi
  cat
  [ -z "$smi" ] || kill "$smi" 2> /dev/null
  echo end
}

gpu() { # LINE of nvidia-smi: an answer begins where the index does not rise
  index=${1%%,*}
  case $index in
    '' | *[!0-9]*)
      [ -z "$1" ] || odd=$1 is_new=yes
      return
      ;;
  esac
  if [ "$index" -le "$last" ]; then
    before=$gpus before_count=$count before_at=$at gpus='' count=0
    [ -n "$is_new" ] || odd='' # it stays for one whole answer
    is_new=''
    read -r at _ < "$root/proc/uptime"
  fi
  last=$index count=$((count + 1))
  gpus="$gpus${tab}gpu $1"
}

system() {
  up='' load='' cpu='' total='' available=''
  read -r up _ < "$root/proc/uptime"
  read -r load _ < "$root/proc/loadavg"
  read -r _ cpu < "$root/proc/stat"
  while read -r name value _; do
    case $name in
      MemTotal:) total=$value ;;
      MemAvailable:) available=$value && break ;;
    esac
  done < "$root/proc/meminfo"
  line="look ${up:-?}${tab}load ${load:-?}${tab}cpu ${cpu:-?}${tab}mem ${total:-?} ${available:-?}"
}

put() { # FOLDER FILE...: appends the first word of each file
  folder=$1
  shift
  for file; do
    value=''
    read -r value < "$folder/$file"
    value=${value%%[: ]*}
    line="$line ${value:-?}"
  done
}

ports() {
  for port in "$root"/sys/class/infiniband/*/ports/*; do
    [ -d "$port" ] || continue
    device=${port%/ports/*}
    line="$line${tab}ib ${device##*/}/${port##*/}"
    put "$port" state rate link_layer counters/port_rcv_data counters/port_xmit_data \
      counters/symbol_error counters/link_error_recovery counters/link_downed \
      counters/port_rcv_errors counters/port_xmit_discards counters/port_xmit_wait
  done
}

links() { # Ethernet; the real interfaces, or where there is none, as in containers, all
  is_real=''
  for interface in "$root"/sys/class/net/*; do
    [ ! -e "$interface/device" ] || is_real=yes
  done
  for interface in "$root"/sys/class/net/*; do
    [ -e "$interface/device" ] || [ -z "$is_real" ] || continue
    type=''
    read -r type < "$interface/type"
    [ "$type" = 1 ] || continue
    line="$line${tab}eth ${interface##*/}"
    put "$interface" operstate speed carrier_changes statistics/rx_bytes statistics/tx_bytes \
      statistics/rx_errors statistics/tx_errors statistics/rx_dropped statistics/tx_dropped
  done
}

state_of_smi() { # R, S, D or Z as in /proc/PID/stat; `?` where it is gone
  stat=''
  read -r stat < "/proc/$smi/stat"
  stat=${stat##*) }
  stat=${stat%% *}
  line="$line${tab}smi ${stat:-?}"
  if [ "$count" -lt "$before_count" ]; then # in the middle of an answer
    line="$line ${before_at:-?}$before"
  else
    line="$line ${at:-?}$gpus"
  fi
  [ -z "$odd" ] || line="$line${tab}odd $odd"
}

sources | {
  while read -r words; do
    case $words in
      look)
        system
        ports
        links
        [ -z "$smi" ] || state_of_smi
        printf '%s\n' "$line"
        ;;
      end) break ;;
      'smi '*) smi=${words#smi } ;;
      *) gpu "$words" ;;
    esac
  done
} 2> /dev/null

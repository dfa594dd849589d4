#!/bin/sh
# probe.sh LIMIT_S [ROOT]: what `soractl health` judges, in one look; it changes nothing.
# Facts are lines of KIND, ITEM, FIELD and VALUE with tabs between; `?` cannot be read.
# ROOT, a whole path, stands before /proc, /sys and /dev.
export LC_ALL=C
limit_s=$1 root=$2
echo '=== start 0'

# The driver's answers. One limit for all of them: what has no end of its section was not answered.
driver() {
  # shellcheck disable=SC2016 # it is the inner shell's
  exec timeout -k 1 "$limit_s" sh -c '
    ask() { # SECTION OPTION...
      section=$1
      shift
      nvidia-smi "$@" < /dev/null 2>&1
      printf "\n=== %s %s\n" "$section" $?
    }
    {
      ask links nvlink -s
      ask linkerrors nvlink -e
    } | {
      ask nvidia -q
      exec cat
    }'
}

# What the checks of messages look for.
hardware='NVRM: Xid|Out of memory|oom-kill|I/O error|Hardware Error|mce: .*Machine [Cc]heck'
hardware="$hardware|blocked for more than|mlx5.*[Ll]ink (is )?[Dd]own|Remounting filesystem"
hardware="$hardware|EXT4-fs error|clock throttled"
kernel() { # messages about hardware alone, with seconds since the start of the kernel
  no_message || {
    dmesg || journal
    printf '\n=== kernel %s\n' $?
  } < /dev/null | grep -E "$hardware|^=== kernel [0-9]+$" | tail -n 401
} 2> /dev/null

journal() { # it ends well, and empty, for who may not read it
  messages=$(journalctl -k -b -n 20000 -q --no-pager -o short-monotonic) || return
  [ -n "$messages" ] && printf '%s\n' "$messages"
}

# dmesg formats each message, which takes three times as long as all of this. It is asked too where
# one of hardware is found: it leaves out what was cleared.
no_message() {
  [ -r "$root/dev/kmsg" ] || return
  read_to=$({
    dd if="$root/dev/kmsg" ibs=8k obs=64k iflag=nonblock 2>&3 | grep -Eq "$hardware"
    [ $? != 1 ] || echo 'none found'
  } 3>&1)
  case $read_to in *'none found'*) ;; *) return 1 ;; esac
  # Read to the last message, and not from a device that has none, as in some containers.
  case $read_to in *': Resource temporarily unavailable'*+[1-9]*' records in'*) ;; *) return 1 ;; esac
  printf '\n=== kernel 0\n'
}

disks() { # not kept in a variable: a df that cannot be killed holds its pipe open
  timeout -k 1 3 df -l --output=source,pcent,ipcent,target 2> /dev/null < /dev/null
  code=$?
  printf '\n=== disks %s\n' $code
  case $code in 0 | 124 | 137) return ;; esac
  # A df of another make.
  timeout -k 1 3 df -P -k -l 2> /dev/null < /dev/null
  printf '=== space %s\n' $?
  timeout -k 1 3 df -P -i -l 2> /dev/null < /dev/null
  printf '=== inodes %s\n' $?
}

put() { # KIND ITEM FOLDER FILE...: the first line of each file
  kind=$1 item=$2 folder=$3
  shift 3
  for field; do
    value=
    read -r value < "$folder/$field"
    printf '%s\t%s\t%s\t%s\n' "$kind" "$item" "$field" "${value:-?}"
  done
}

fact() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4"; }

# Not by `read`, which asks the kernel for each byte; nor by awk, which may end where a process has
# ended since its file was opened.
lines() { # of each file below /proc, with its name before them
  cd "$root/proc" || return
  set -- meminfo self/limits mdstat sys/kernel/osrelease sys/kernel/pid_max sys/kernel/numa_balancing \
    sys/vm/swappiness sys/vm/max_map_count sys/vm/overcommit_memory sys/vm/zone_reclaim_mode \
    sys/fs/file-nr
  grep -Hs '' "$@" [0-9]*/stat
  # 126: more processes than a list of arguments holds; they stay unknown, and nothing else
  [ $? != 126 ] || grep -Hs '' "$@"
}

tables() {
  lines | awk '
    function fact(kind, item, field, value) {
      printf "%s\t%s\t%s\t%s\n", kind, item, field, value
    }
    function set(its, names, name, i) {
      split(names, name, " ")
      for (i in name) its[name[i]]
    }
    function process(state, name) { # the one whose lines are gathered: a name may have several
      if (text == "") return
      processes++
      name = state = text
      text = ""
      sub(/.*\) /, "", state)
      sub(/^[^(]*\(/, "", name)
      sub(/\)[^)]*$/, "", name)
      gsub(/[\n\t]/, " ", name)
      if (state ~ /^Z/) zombies++
      if (state ~ /^D/) { stuck++; stuck_names = stuck_names " " name }
      if (name in keeps_time) daemons = daemons " " name
      if (name ~ /^nv-fabricmanage/) manager = "yes"
    }
    BEGIN {
      set(keeps_time, "chronyd ntpd ntpsec openntpd systemd-timesyn ptp4l")
      set(of_memory, "MemTotal MemAvailable SwapTotal SwapFree HardwareCorrupted HugePages_Free")
      of_memory["Hugepagesize"]
      manager = "no"
    }
    {
      file = substr($0, 1, index($0, ":") - 1)
      line = substr($0, length(file) + 2)
    }
    /^[0-9]/ {
      if (file != before) process()
      text = text == "" ? line : text "\n" line
      before = file
      next
    }
    { count = split(line, word, " ") }
    file == "meminfo" && sub(/:$/, "", word[1]) && (word[1] in of_memory) {
      fact("memory", "", word[1], word[2])
    }
    file == "self/limits" && match(line, /^Max (open files|locked memory|processes) /) {
      name = substr(line, 5, RLENGTH - 5)
      split(substr(line, RLENGTH + 1), word, " ") # soft limit, hard limit, unit
      fact("limits", "", name, word[1])
      if (name == "open files") fact("limits", "", "open files, hard", word[2])
    }
    file == "mdstat" && line ~ /^md/ { array = word[1]; next }
    file == "mdstat" && line ~ / blocks / { fact("raid", array, "members", word[count]) }
    file ~ /^sys/ && line != "" { fact("system", "", substr(file, 5), line) }
    END {
      process()
      fact("system", "", "zombies", processes ? zombies + 0 : "?")
      fact("system", "", "stuck", processes ? stuck + 0 stuck_names : "?")
      fact("system", "", "daemons", processes ? (daemons ? substr(daemons, 2) : "none") : "?")
      fact("system", "", "manager", processes ? manager : "?")
    }'
}

edac() {
  for folder in "$root"/sys/devices/system/edac/mc/mc[0-9]*; do
    [ -d "$folder" ] && put edac "${folder##*/}" "$folder" ue_count ce_count
  done
}

cpus() {
  count=0 governors=''
  for folder in "$root"/sys/devices/system/cpu/cpu[0-9]*; do
    [ -d "$folder" ] && count=$((count + 1))
    if [ -e "$folder/cpufreq" ]; then
      governor='?'
      read -r governor < "$folder/cpufreq/scaling_governor"
      case " $governors " in *" $governor "*) ;; *) governors="$governors $governor" ;; esac
    fi
  done
  fact cpu '' count "$count"
  [ -z "$governors" ] || fact governor '' scaling_governor "${governors# }"
  put cpu '' "$root/sys/devices/system/cpu" present online
  put cpu '' "$root/sys/devices/system/clocksource/clocksource0" current_clocksource
}

mounts() {
  while read -r source folder type options _; do
    case $type in
      ext[234] | xfs | btrfs)
        case ",$options," in *,ro,*) access=ro ;; *) access=rw ;; esac
        fact mount "$folder" access "$access"
        ;;
      nfs | nfs4 | lustre | ceph | beegfs | gpfs | wekafs)
        fact share "$folder" source "$source"
        {
          if timeout -k 1 2 stat -f "$(printf '%b' "$folder")" > /dev/null 2>&1; then answer=yes
          else answer=no; fi
          fact share "$folder" answers "$answer"
        } &
        ;;
    esac
  done < "$root/proc/mounts"
  wait
  for folder in "$root"/sys/class/nvme/nvme[0-9]*; do
    [ -e "$folder" ] && put nvme "${folder##*/}" "$folder" state
  done
}

pci() { # GPUs and switches of NVIDIA
  gpus=0 switches=0
  for folder in "$root"/sys/bus/pci/devices/*; do
    vendor='' class=''
    read -r vendor < "$folder/vendor"
    [ "$vendor" = 0x10de ] || continue
    read -r class < "$folder/class"
    case $class in
      0x0300* | 0x0302*) gpus=$((gpus + 1)) ;;
      0x0680*) switches=$((switches + 1)) ;;
    esac
  done
  [ -d "$root/sys/bus/pci/devices" ] || gpus='?' switches='?'
  fact system '' gpus_on_bus "$gpus"
  fact system '' switches "$switches"
  if [ -d "$root/sys/module/nvidia_peermem" ]; then peermem=yes; else peermem=no; fi
  fact system '' peermem "$peermem"
  if [ -d "$root/sys/module/mlx5_core" ]; then
    put driver mlx5 "$root/sys/module/mlx5_core" version
  fi
}

network() {
  for folder in "$root"/sys/class/infiniband/*/ports/*; do
    [ -d "$folder" ] || continue
    device=${folder%/ports/*} port=${folder##*/}
    name=${device##*/}/$port
    put ib "$name" "$folder" state phys_state rate link_layer
    put ib "$name" "$folder/counters" symbol_error link_error_recovery link_downed port_rcv_errors \
      port_xmit_discards local_link_integrity_errors excessive_buffer_overrun_errors
    put ib "$name" "$device" fw_ver hca_type
    put ib "$name" "$device/device" current_link_width max_link_width current_link_speed \
      max_link_speed
  done
  for folder in "$root"/sys/class/net/*; do
    [ -e "$folder/device" ] || continue
    type=
    read -r type < "$folder/type"
    [ "$type" = 1 ] || continue # Ethernet
    put eth "${folder##*/}" "$folder" operstate mtu speed duplex carrier_changes
    put eth "${folder##*/}" "$folder/statistics" rx_errors tx_errors rx_crc_errors rx_missed_errors
  done
}

facts() {
  read -r up _ < "$root/proc/uptime"
  fact system '' uptime "${up:-?}"
  read -r load _ < "$root/proc/loadavg"
  fact system '' load "${load:-?}"
  tables
  edac
  cpus
  mounts
  pci
  network
  printf '=== facts 0\n'
} 2> /dev/null

# At once: the driver's answers wait in a pipe until the others are whole.
driver | {
  disks
  facts
  kernel
  exec cat
}

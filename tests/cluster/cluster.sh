#!/bin/bash
# Nodes on this one machine, each with a network, processes, a host name and an sshd of its own.
#
#   cluster.sh up [N]          start N nodes (3), n1 to nN, and a head node n0 that is no training node
#   cluster.sh shell           a shell on the head node, where hostfiles/nodes.txt names the nodes
#   cluster.sh head CMD...     one command on the head node
#   cluster.sh node K CMD...   one command on node K, without ssh
#   cluster.sh off K           power off: its sshd and everything on it is gone (on K)
#   cluster.sh freeze K        its sshd takes connections and says nothing (thaw K)
#   cluster.sh lose K          its packets go nowhere (find K)
#   cluster.sh down            end everything
#
# All of it lives in one process namespace, below one process: when that is gone, so are the
# bridge, the nodes and their mounts. Several clusters run side by side, each in its own
# SORACTL_CLUSTER folder. Disks are shared, as on a cluster with a network file system; /run and
# /dev/shm are each node's own. Needs root, openssh-server, iproute2 and tini.
set -u
here=$(cd "$(dirname "$0")" && pwd)
state=${SORACTL_CLUSTER:-/tmp/soractl-cluster}
net=10.77.0
repository=$(cd "$here/../.." && pwd)
PATH=$repository/.venv/bin:$PATH # also for those who come without `make`
nodes_path=$here/bin:$PATH
account=$(getent passwd 0 | cut -d : -f 6) # the home of the account that the nodes log in to

new_machine() { # CMD...: runs it as the first process of a new machine
  exec unshare --net --pid --mount --uts --ipc --fork --kill-child --mount-proc \
    --propagation private "$0" "$@"
}

child_of() { # PID: its first child, waited for
  local child=
  until child=$(< "/proc/$1/task/$1/children") && [ -n "$child" ]; do
    [ -d "/proc/$1" ] || return 1
    sleep 0.005
  done 2> /dev/null
  echo "${child%% *}"
}

up() {
  local count=${1:-3} i outer
  [ "$(id -u)" = 0 ] || { echo "cluster.sh: only root may make namespaces" >&2; return 1; }
  [ -e "$state/init" ] && { echo "cluster.sh: $state is in use; cluster.sh down" >&2; return 1; }
  mkdir -p "$state"/{keys,log,pid,hostfiles,home/.ssh} && chmod 700 "$state/home/.ssh" || return 1
  ssh-keygen -q -t ed25519 -N '' -f "$state/home/.ssh/id_ed25519" || return 1
  cp "$state/home/.ssh/id_ed25519.pub" "$state/home/.ssh/authorized_keys"
  cp "$repository"/hostfiles/* "$state/hostfiles/" 2> /dev/null
  : > "$state/hostfiles/nodes.txt"
  mkdir -p "$account/.ssh" # made private below
  printf '127.0.0.1 localhost\n%s.1 n0\n' "$net" > "$state/hosts"
  for ((i = 1; i <= count; i++)); do
    ssh-keygen -q -t ed25519 -N '' -C "n$i" -f "$state/keys/n$i"
    read -r kind key _ < "$state/keys/n$i.pub"
    echo "$net.$((i + 10)) n$i" >> "$state/hosts"
    echo "n$i,$net.$((i + 10)) $kind $key" >> "$state/home/.ssh/known_hosts"
    printf 'Host n%d\n  HostName %s.%d\n' "$i" "$net" $((i + 10)) >> "$state/ssh_config"
    echo "n$i" >> "$state/hostfiles/nodes.txt"
  done
  printf '%s\n' 'ranks_per_node = 2' 'master_port = 29500' '[env]' 'GLOO_SOCKET_IFNAME = "eth0"' \
    'NCCL_SOCKET_IFNAME = "eth0"' 'OMP_NUM_THREADS = 1' > "$state/hostfiles/nodes.toml"
  (new_machine _head "$count" > "$state/log/n0" 2>&1 < /dev/null) &
  outer=$!
  disown
  until [ -e "$state/ready" ]; do
    kill -0 $outer 2> /dev/null || { cat "$state/log/n0" >&2; down; return 1; }
    sleep 0.01
  done
  child_of $outer > "$state/pid/n0"
  readlink "/proc/$(< "$state/pid/n0")/ns/pid" > "$state/init"
  echo "n1 to n$count are up: $0 shell, then for example soractl gpus nodes.txt"
}

make_private() { # NAME
  hostname "$1"
  mount --bind "$state/hosts" /etc/hosts
  # The nodes neither see nor change the real ~/.ssh. ssh asks the account for its home, all else
  # takes HOME; /etc/passwd stays the machine's own, which a package's installation may replace.
  mount --bind "$state/home/.ssh" "$account/.ssh"
  ip link set lo up
}

_head() {
  local count=$1
  make_private n0 || exit 1
  [ -d "$repository/hostfiles" ] && mount --bind "$state/hostfiles" "$repository/hostfiles"
  ip link add bridge type bridge && ip address add "$net.1/24" dev bridge || exit 1
  ip link set bridge up
  # shellcheck disable=SC2046 # a list of numbers
  _on $(seq "$count") || exit 1
  touch "$state/ready"
  exec tini -s -- sleep infinity
}

_on() { # K...: switches nodes on, from the head node
  local i inner init
  for i; do
    rm -f "$state/pid/n$i.go" && mkfifo "$state/pid/n$i.go"
    (new_machine _node "$i" > "$state/log/n$i" 2>&1 < /dev/null) &
    inner=$!
    disown
    init=$(child_of $inner) || return 1
    echo "$init" > "$state/pid/n$i"
    printf 'link add port%d type veth peer name eth0 netns %d\n' "$i" "$init"
    printf 'link set port%d master bridge up\n' "$i"
  done > "$state/links"
  ip -batch "$state/links" || return 1
  for i; do echo > "$state/pid/n$i.go"; done
  for i; do
    until grep -q 'Server listening' "$state/log/n$i"; do
      [ -d "/proc/$(< "$state/pid/n$i")" ] || { cat "$state/log/n$i"; return 1; }
      sleep 0.01
    done
  done
}

_node() {
  local i=$1
  make_private "n$i" || exit 1
  mount -t tmpfs -o size=256m tmpfs /dev/shm
  mount -t tmpfs -o size=16m tmpfs /run && mkdir /run/sshd || exit 1
  read -r < "$state/pid/n$i.go" # until the head node has plugged in the cable
  ip address add "$net.$((i + 10))/24" dev eth0 && ip link set eth0 up || exit 1
  printf '%s\n' "HostKey $state/keys/n$i" "AuthorizedKeysFile $state/home/.ssh/authorized_keys" \
    'PermitRootLogin prohibit-password' 'PasswordAuthentication no' 'UsePAM no' 'UseDNS no' \
    'StrictModes no' 'PidFile none' 'Subsystem sftp internal-sftp' \
    "SetEnv PATH=$nodes_path FAKE_GPUS=$state/gpus HOME=$state/home" > "$state/keys/n$i.conf"
  # As the node's first process sshd adopts orphans, and its end is the node's end.
  exec /usr/sbin/sshd -D -e -f "$state/keys/n$i.conf"
}

pid_in_head() { cat "$state/pid/n$1"; }

enter() { # PID CMD...
  local pid=$1
  shift
  exec nsenter --target "$pid" --net --pid --mount --uts --ipc --wdns="$PWD" -- "$@"
}

head() {
  export HOME=$state/home SORACTL_HOSTFILE=$state/hostfiles/nodes.txt
  enter "$(< "$state/pid/n0")" "$@"
}

node() {
  local k=$1
  shift
  head "$0" _inside "$k" "$@"
}

_inside() { # runs on the head node, whose process ids are those of $state/pid
  local k=$1
  shift
  export PATH=$nodes_path FAKE_GPUS=$state/gpus
  enter "$(pid_in_head "$k")" "$@"
}

down() {
  local init
  if [ -e "$state/init" ]; then
    init=$(< "$state/pid/n0")
    if [ "$(readlink "/proc/$init/ns/pid")" = "$(< "$state/init")" ]; then
      kill -9 "$init"
      while [ -d "/proc/$init" ]; do sleep 0.01; done
    fi
  fi
  rm -rf "$state"
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  up | down | head | node | _head | _on | _node | _inside) "$command" "$@" ;;
  shell) head bash --norc "$@" ;;
  on) head "$0" _on "$1" ;;
  off) head kill -9 "$(pid_in_head "$1")" ;;
  freeze) head kill -STOP "$(pid_in_head "$1")" ;;
  thaw) head kill -CONT "$(pid_in_head "$1")" ;;
  lose) node "$1" ip route add blackhole "$net.0/25" ;;
  find) node "$1" ip route del blackhole "$net.0/25" ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" ;;
esac

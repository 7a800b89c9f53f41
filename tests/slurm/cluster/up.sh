#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Start a throw-away Slurm cluster of pseudo-nodes on this one machine (root, Debian 12).
#   up.sh            start it (idempotent: a healthy one is left alone)
#   down.sh          stop it
#   $ROOT/enter CMD...     run CMD as on the login node     ($ROOT/enter -n node2 CMD: as on node2)
# Knobs (environment): ROOT, NODES, GPUS, GPU_TYPE, CPUS, MEM_MB, NET=netns|loopback,
#   PRIVATE_TMP=1|0, SHARED="dirs under /tmp that all nodes share", FAKE_PYXIS=1|0, PMIX=1|0, PROCTRACK=cgroup|linuxproc
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=${ROOT:-/tmp/slurm-test}
NODES=${NODES:-4} GPUS=${GPUS:-8} GPU_TYPE=${GPU_TYPE:-a800} CPUS=${CPUS:-64} MEM_MB=${MEM_MB:-1000000}
NET=${NET:-netns} PRIVATE_TMP=${PRIVATE_TMP:-1} SHARED=${SHARED:-} FAKE_PYXIS=${FAKE_PYXIS:-1} PMIX=${PMIX:-1}
[ -d /sys/fs/cgroup/freezer ] && [ -w /sys/fs/cgroup/freezer ] && d=cgroup || d=linuxproc # cgroup (v1) also ends setsid'ed orphans, as production clusters do
PROCTRACK=${PROCTRACK:-$d}
SHARED="$SHARED $ROOT" # the nodes have a private /tmp each, and must still see the cluster's own folder
PFX=${PFX:-slurmtest}
cannot() { # what this machine lacks; the tests are then skipped, with this sentence
  echo "up: $*" >&2
  exit 3
}
[ "$(id -u)" = 0 ] || cannot "it needs root, for network and mount namespaces"
command -v dpkg-query apt-get >/dev/null || cannot "it takes Slurm from Debian's packages, and this is no Debian"
unshare --mount --uts --net true 2>/dev/null || cannot "this root may not make mount and network namespaces"

# 1. packages (Debian's policy-rc.d or a missing systemd keeps their services from starting)
want=(slurmctld slurmd slurm-client munge iproute2)
[ "$FAKE_PYXIS" = 1 ] && want+=(libslurm-dev gcc libc6-dev)
[ "$PMIX" = 1 ] && want+=(libpmix2)
missing=()
for p in "${want[@]}"; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p"); done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq || cannot "apt-get update fails, and ${missing[*]} are not installed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    cannot "apt-get cannot install ${missing[*]}"
fi

# Debian's mpi/pmix plugin dlopens the unversioned name, which only libpmix-dev ships
l=/usr/lib/$(uname -m)-linux-gnu/pmix2/lib
[ "$PMIX" = 1 ] && [ -e "$l/libpmix.so.2" ] && [ ! -e "$l/libpmix.so" ] && ln -s libpmix.so.2 "$l/libpmix.so"

# 2. already up?
export SLURM_CONF=$ROOT/slurm.conf
if [ -x "$ROOT/enter" ] && n=$("$ROOT/enter" sinfo -h -N -t idle,alloc,mix -o %N 2>/dev/null | sort -u | wc -l) && [ "$n" = "$NODES" ]; then
  echo "up: already up ($n nodes)"
  exit 0
fi
"$HERE/down.sh" >/dev/null 2>&1 || true
mkdir -p "$ROOT"/{state,dev,log,run}
chmod 755 "$ROOT"

# 3. configuration
if [ "$NET" = netns ]; then
  ctl=10.77.0.254
  addr() { echo "10.77.0.$1"; }
  comm=
else
  ctl=127.0.0.1
  addr() { echo "127.0.1.$1"; }
  comm=
fi # NoInAddrAny hangs srun inside jobs here
{
  echo "127.0.0.1 localhost"
  echo "$ctl login"
  for i in $(seq "$NODES"); do echo "$(addr "$i") node$i"; done
} >"$ROOT/hosts"
for i in $(seq 0 $((GPUS - 1))); do [ -e "$ROOT/dev/nvidia$i" ] || mknod -m 666 "$ROOT/dev/nvidia$i" c 1 3; done
[ -e "$ROOT/munge.key" ] || (
  umask 077
  head -c 1024 /dev/urandom >"$ROOT/munge.key"
)
gres=""
: >"$ROOT/gres.conf"
if [ "$GPUS" -gt 0 ]; then
  gres="Gres=gpu:$GPU_TYPE:$GPUS"
  echo "NodeName=node[1-$NODES] Name=gpu Type=$GPU_TYPE File=$ROOT/dev/nvidia[0-$((GPUS - 1))]" >"$ROOT/gres.conf"
fi
cat >"$ROOT/slurm.conf" <<CONF
ClusterName=slurmtest
SlurmctldHost=login($ctl)
SlurmctldPort=16817
SrunPortRange=20000-20999
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$ROOT/run/munge.sock,cred_expire=10
CredType=cred/munge
$comm
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool.%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.%n.log
ProctrackType=proctrack/$PROCTRACK
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOT/log/jobcomp.txt
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MinJobAge=86400
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=120
NodeName=node[1-$NODES] NodeAddr=$(addr "[1-$NODES]") Port=[17001-$((17000 + NODES))] CPUs=$CPUS Sockets=2 CoresPerSocket=$((CPUS / 2)) ThreadsPerCore=1 RealMemory=$MEM_MB $gres State=UNKNOWN
PartitionName=gpu Nodes=node[1-$NODES] Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
CONF
printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n' >"$ROOT/cgroup.conf"
: >"$ROOT/plugstack.conf"
if [ "$FAKE_PYXIS" = 1 ]; then
  [ "$ROOT/fake_pyxis.so" -nt "$HERE/fake_pyxis.c" ] || gcc -shared -fPIC -O1 -o "$ROOT/fake_pyxis.so" "$HERE/fake_pyxis.c"
  echo "required $ROOT/fake_pyxis.so" >"$ROOT/plugstack.conf"
fi

# 4. network: one namespace per node, eth0 + ib0 each, bridges in the login namespace
if [ "$NET" = netns ]; then
  ip netns add "$PFX-login"
  ip -n "$PFX-login" link set lo up
  for b in 0 1; do
    ip -n "$PFX-login" link add br$b type bridge
    ip -n "$PFX-login" addr add 10.7$((7 + b)).0.254/24 dev br$b
    ip -n "$PFX-login" link set br$b up
  done
  for i in $(seq "$NODES"); do
    ip netns add "$PFX-node$i"
    ip -n "$PFX-node$i" link set lo up
    b=0
    for d in eth0 ib0; do
      ip -n "$PFX-login" link add "n$i$d" type veth peer name "$d" netns "$PFX-node$i"
      ip -n "$PFX-login" link set "n$i$d" master br$b up
      ip -n "$PFX-node$i" addr add "10.7$((7 + b)).0.$i/24" dev "$d"
      ip -n "$PFX-node$i" link set $d up
      b=$((b + 1))
    done
  done
fi

# 5. daemons, each in its own UTS+mount(+net) namespace
in_node() { # NAME CMD...
  local n=$1 pre=()
  shift
  [ "$NET" = netns ] && pre=(nsenter "--net=/run/netns/$PFX-$n")
  local t=$ROOT/nodes/$n/tmp d=
  # shellcheck disable=SC2016  # expanded by the shell in the new namespaces
  "${pre[@]}" unshare --uts --mount --propagation private bash -ec '
    n=$1 root=$2 t=$3 shared=$4 ptmp=$5; shift 5
    hostname "$n"; mount --bind "$root/hosts" /etc/hosts
    if [ "$ptmp" = 1 ] && [ "$n" != login ]; then
      mkdir -p "$t"; chmod 1777 "$t"
      for d in $shared; do case $d in /tmp/*) mkdir -p "$d" "$t/${d#/tmp/}"; mount --rbind "$d" "$t/${d#/tmp/}";; esac; done
      mount --rbind "$t" /tmp; mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    fi
    cd /; exec "$@"' _ "$n" "$ROOT" "$t" "$SHARED" "$PRIVATE_TMP" "$@"
}
munged --key-file="$ROOT/munge.key" --socket="$ROOT/run/munge.sock" --pid-file="$ROOT/run/munged.pid" --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/run/munged.seed"
in_node login slurmctld -i
for _ in $(seq 100); do
  [ -s "$ROOT/run/slurmctld.pid" ] && break
  sleep 0.1
done
for i in $(seq "$NODES"); do in_node "node$i" slurmd -N "node$i"; done
cat >"$ROOT/enter" <<ENTER
#!/bin/bash
p=slurmctld; [ "\$1" = -n ] && { p=slurmd.\$2; shift 2; }
exec nsenter -t "\$(cat $ROOT/run/\$p.pid)" --uts --mount --net --wd="\$PWD" env SLURM_CONF=$ROOT/slurm.conf "\$@"
ENTER
chmod +x "$ROOT/enter"
for _ in $(seq 150); do
  n=$("$ROOT/enter" sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)
  [ "$n" = "$NODES" ] && break
  sleep 0.1
done
[ "$n" = "$NODES" ] || {
  echo "up: only $n of $NODES nodes idle; see $ROOT/log" >&2
  tail -n 5 "$ROOT"/log/*.log >&2
  exit 1
}
echo "up: $n nodes idle; use $ROOT/enter sbatch ..."

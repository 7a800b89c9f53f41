#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stop the cluster up.sh started: only pids from its own pid files, only its own namespaces.
ROOT=${ROOT:-/tmp/slurm-test}
PFX=${PFX:-slurmtest}
stop() { # PIDFILE NAME: end that daemon if the pid is still that program
  local p
  p=$(cat "$1" 2>/dev/null) || return 0
  [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$2" ] || {
    rm -f "$1"
    return 0
  }
  kill "$p"
  for _ in $(seq 50); do
    live "$p" || {
      rm -f "$1"
      return 0
    }
    sleep 0.1
  done
  kill -9 "$p"
  rm -f "$1"
}
live() { # a zombie (this machine's pid 1 does not always reap) counts as gone
  local st
  st=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) && [ "${st%% *}" != Z ]
}
# cancel what runs, so that no slurmstepd outlives its slurmd
if [ -s "$ROOT/run/slurmctld.pid" ] && [ -x "$ROOT/enter" ]; then
  ids=$("$ROOT/enter" timeout 5 squeue -h -o %A 2>/dev/null | sort -u)
  if [ -n "$ids" ]; then echo "$ids" | xargs "$ROOT/enter" timeout 5 scancel; fi
  for _ in $(seq 100); do
    [ -z "$("$ROOT/enter" timeout 5 squeue -h 2>/dev/null)" ] && break
    sleep 0.1
  done
fi
# their mount namespaces, to find what their jobs left behind (proctrack/linuxproc loses setsid'ed orphans)
mnts=" "
for f in "$ROOT"/run/slurmd.*.pid; do
  p=$(cat "$f" 2>/dev/null) && m=$(readlink "/proc/$p/ns/mnt" 2>/dev/null) && [ "$m" != "$(readlink /proc/1/ns/mnt)" ] && [ "$m" != "$(readlink /proc/$$/ns/mnt)" ] && mnts+="$m "
done
for f in "$ROOT"/run/slurmd.*.pid; do [ -e "$f" ] && stop "$f" slurmd; done
stop "$ROOT/run/slurmctld.pid" slurmctld
stop "$ROOT/run/munged.pid" munged
if [ "$mnts" != " " ]; then for d in /proc/[0-9]*; do
  m=$(readlink "$d/ns/mnt" 2>/dev/null) && [ -n "$m" ] && case "$mnts" in *" $m "*) kill -9 "${d#/proc/}" 2>/dev/null ;; esac
done fi
for ns in $(ip netns list 2>/dev/null | awk -v p="^$PFX-" '$1 ~ p {print $1}'); do ip netns del "$ns"; done
find /sys/fs/cgroup/*/ -maxdepth 1 -type d -name "slurm_node*" 2>/dev/null | while read -r d; do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null; done
[ "${1:-}" = --purge ] && rm -rf "$ROOT"
echo "down: done"

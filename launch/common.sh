# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Functions shared by all templates and pipeline.sh, which source this file. Site settings are in site.env.
set -euo pipefail

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(dirname "$launch")
submitted_from=$PWD
if [ -f "${REASONGRM_SITE:=$launch/site.env}" ]; then
  set -a
  # shellcheck source=site.env.example
  . "$REASONGRM_SITE"
  set +a
fi
# make relative paths in recipes (runs/, data/) independent of where a job was submitted from
cd "${REASONGRM_WORKDIR:-$checkout}"

say() { printf 'launch: %s\n' "$*"; }

die() { # SENTENCE
  say "$*" >&2
  exit 2
}

# -- the environment of a job ------------------------------------------------------------------------------

load_environment() {
  if [ -n "${REASONGRM_MODULES:-}" ]; then
    read -ra modules <<<"$REASONGRM_MODULES"
    module load "${modules[@]}"
  fi
  local file=${REASONGRM_ENV:-$checkout/.envs/env.sh}
  if [ -f "$file" ]; then
    # shellcheck source=/dev/null
    . "$file"
  fi
  command -v reasongrm >/dev/null || die "reasongrm is not on the path: run 'make setup', or set REASONGRM_ENV in $REASONGRM_SITE"
}

set_fabric() {
  # Megatron needs kernels to start in order to overlap a layer's communication with its computation
  export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
  # make a failed collective end its process with an error instead of hanging until the wall time
  export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}
  # log NCCL's warnings; use INFO to see its choices on a new fabric
  export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
  if [ -n "${REASONGRM_INTERFACE:-}" ]; then
    # otherwise gloo and NCCL guess, and may choose a management network or docker0
    export GLOO_SOCKET_IFNAME=$REASONGRM_INTERFACE NCCL_SOCKET_IFNAME=$REASONGRM_INTERFACE
  fi
  if [ -n "${REASONGRM_IB_HCA:-}" ]; then
    # an adapter used for storage, or one whose port is down, makes NCCL hang in its first collective
    export NCCL_IB_HCA=$REASONGRM_IB_HCA
  fi
}

set_scratch() {
  # compilers write and lock thousands of small files, which is slow on a shared file system
  local scratch=${REASONGRM_SCRATCH:-/tmp}/reasongrm-$UID-${SLURM_JOB_ID:-dry}
  # compiled code in this folder is executed, so this user must own it on every node (reasongrm_nemo/processes/node_scratch.py)
  export REASONGRM_NODE_SCRATCH=$scratch
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    mkdir -p "${scratch%/*}"
    mkdir -m 700 "$scratch" 2>/dev/null || true # exists if the job was requeued
    [ -d "$scratch" ] && [ -O "$scratch" ] && [ ! -L "$scratch" ] || die "$scratch belongs to another user; remove it, or set REASONGRM_SCRATCH"
    chmod 700 "$scratch"
  fi
  # keep reasongrm's cache (hashes of checkpoints, answers of engines) between jobs, which would otherwise recompute it
  export REASONGRM_CACHE=${REASONGRM_CACHE:-${XDG_CACHE_HOME:-${HOME:-$scratch}/.cache}/reasongrm}
  export TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor VLLM_CACHE_ROOT=$scratch/vllm
  export XDG_CACHE_HOME=$scratch/cache
}

quoted() { printf '%q ' "$@"; } # words that Python's shlex splits again

set_containers() { # set the srun options and prefixes that start ranks and servers (reasongrm_nemo/processes/placement.py)
  extra=() trainer=("${TRAINER_PYTHON:-python3}")
  local mounts=${REASONGRM_MOUNTS:-$PWD:$PWD}
  case ${REASONGRM_CONTAINER:-none} in
    none) return ;;
    pyxis)
      REASONGRM_TRAINER_SRUN=$(quoted "--container-image=$REASONGRM_TRAINER_IMAGE" "--container-mounts=$mounts" "--container-workdir=$PWD" --no-container-mount-home)
      REASONGRM_ROLLOUT_SRUN=$(quoted "--container-image=$REASONGRM_ROLLOUT_IMAGE" "--container-mounts=$mounts" "--container-workdir=$PWD" --no-container-mount-home)
      ;;
    apptainer)
      REASONGRM_TRAINER_PREFIX=$(quoted apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$REASONGRM_TRAINER_IMAGE")
      REASONGRM_ROLLOUT_PREFIX=$(quoted apptainer exec --nv --bind "$mounts" --pwd "$PWD" "$REASONGRM_ROLLOUT_IMAGE")
      ;;
    *) die "REASONGRM_CONTAINER is $REASONGRM_CONTAINER; it can be none, pyxis or apptainer" ;;
  esac
  export REASONGRM_TRAINER_SRUN REASONGRM_ROLLOUT_SRUN REASONGRM_TRAINER_PREFIX REASONGRM_ROLLOUT_PREFIX
  # use srun on a single node too, because only srun enters the image
  eval "trainer=(srun --overlap --ntasks=1 --nodes=1 ${REASONGRM_TRAINER_SRUN:-} ${REASONGRM_TRAINER_PREFIX:-} python3)"
  extra=(cluster.launcher=slurm cluster.trainer_python=python3 cluster.rollout_python=python3)
}

# -- a job's life ------------------------------------------------------------------------------------------

pid='' ending='' interrupted='' terminated='' summarized='' stage=${SLURM_JOB_NAME:-} notes=''
artefact='' partial='' runs_dir='' bad_nodes='' # set by preflight

restarts() { echo "${SLURM_RESTART_COUNT:-0}"; }

log_place() { scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *StdOut=//p' | head -n 1; }

cancelled() { # whether Slurm is already ending this job, which then must not be requeued
  [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" != RUNNING ]
}

summarize() { # SENTENCE: write the job's outcome, for launch/status
  local lines
  if [[ $1 == failed:* ]] && cancelled; then set -- "stopped: Slurm took its nodes away (${1#failed: })"; fi
  lines=$(
    printf '%s\n' "$1"
    printf '  %s, job %s (start %d), nodes %s, after %d s\n  log %s\n' "$stage" "$SLURM_JOB_ID" \
      "$(($(restarts) + 1))" "$SLURM_JOB_NODELIST" "$SECONDS" "$(log_place)"
  )
  summarized=1
  printf 'summary: %s\n' "$lines"
  if [ -n "$runs_dir" ]; then
    mkdir -p "$runs_dir/.launch"
    printf '%s\n' "$lines" >"$runs_dir/.launch/$SLURM_JOB_ID.summary"
  fi
}

requeue() { # WHY [NODES TO LEAVE OUT]
  if [ "$(restarts)" -ge "${REASONGRM_MAX_REQUEUES:=20}" ]; then
    summarize "failed: $1, and the job was requeued $(restarts) times already (REASONGRM_MAX_REQUEUES)"
    exit 1
  fi
  summarize "requeued: $1"
  trap '' TERM # requeueing sends TERM within seconds; finish the summary first
  scontrol requeue "$SLURM_JOB_ID"
  if [ -n "${2:-}" ]; then
    local before
    before=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p' | grep -v '(null)' || true)
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="${before:+$before,}$2" && break
      sleep 1
    done
  fi
  sleep 300
  exit 1
}

on_usr1() { # the time limit is near (#SBATCH --signal)
  interrupted=1 ending="the time limit is near"
  if [ -n "$pid" ]; then
    kill -USR1 "$pid" 2>/dev/null || true
  else # nothing has started before the warning, and a requeued job would get no further
    summarize "failed: the warning before the time limit (--signal) came before anything ran; give more --time"
    exit 1
  fi
}

on_term() { # time limit, preemption or scancel; SIGKILL follows after KillWait
  interrupted=1 terminated=1
  if [ -n "$ending" ]; then requeue "the time limit came before the step it was in could be saved; the last checkpoint and all rollouts are kept"; fi
  if [ -n "$pid" ]; then kill -USR1 "$pid" 2>/dev/null || true; fi
}

wait_for() { # PID: wait for a process and return its status, even if traps interrupt the wait
  local status
  while :; do
    interrupted=''
    status=0
    wait "$1" || status=$?
    if [ -z "$interrupted" ]; then return "$status"; fi
  done
}

lost_nodes() { # nodes of the job that no longer answer
  local node
  for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    timeout 60 srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" true >/dev/null 2>&1 || echo "$node"
  done | paste -sd, -
}

words_of() { # FILE: reasongrm's last error message, or the first finding of preflight, or the last line
  local said
  said=$(sed -n 's/^reasongrm: //p' "$1" | tail -n 1)
  said=${said:-$(sed -n 's/^pre-flight: FIX //p' "$1" | head -n 1)}
  echo "${said:-$(grep -v '^ *$' "$1" | tail -n 1)}"
}

check_job() { # RECIPE [KEY=VALUE...]: run preflight; leave failing nodes out of the next start
  local status=0
  reasongrm preflight "$@" --notes "$notes/job" "${preflight_options[@]}" 2> >(tee "$notes/words" >&2) || status=$?
  # shellcheck source=/dev/null
  if [ -f "$notes/job" ]; then . "$notes/job"; fi
  if [ -n "$artefact" ]; then note_job "$(basename "$artefact")"; fi
  if [ "$status" = 0 ]; then return; fi
  if [ -n "$bad_nodes" ]; then
    sleep 0.2
    requeue "pre-flight without $bad_nodes: $(words_of "$notes/words")" "$bad_nodes"
  fi
  sleep 0.2 # for tee
  summarize "failed: $(words_of "$notes/words")"
  exit "$status"
}

end_job() { # STATUS: summarize on exit, including failures of this script
  rm -rf "$notes"
  if [ -z "$summarized" ]; then summarize "failed: the batch script ended with status $1, see the log"; fi
}

note_job() { # ARTEFACT: record the job for launch/status
  mkdir -p "$runs_dir/.launch"
  printf '%s\t%s\n' "$1" "$(log_place)" >"$runs_dir/.launch/$SLURM_JOB_ID.job"
}

begin_job() {
  trap 'end_job $?' EXIT
  notes=$(mktemp -d)
  load_environment
  set_fabric
  set_scratch
  set_containers
  preflight_options=()
  if [ "${REASONGRM_PREFLIGHT:=full}" != full ]; then preflight_options+=("--$REASONGRM_PREFLIGHT"); fi
  trap on_usr1 USR1
  trap on_term TERM
}

run_stage() { # STAGE [RECIPE OR FOLDER] [KEY=VALUE...]: run one recipe until it ends or the job is requeued
  stage=$1
  shift
  local recipe status=0
  recipe=$(find_recipe "$stage" "${1:-}")
  if [ $# -gt 0 ] && [[ $1 != *=* ]]; then shift; fi
  if [ -z "${SLURM_JOB_ID:-}" ]; then dry_run "$recipe" "$@"; fi
  begin_job
  say "$stage: $recipe $*, job $SLURM_JOB_ID, start $(($(restarts) + 1)), nodes $SLURM_JOB_NODELIST"
  check_job "$recipe" "$@" "${extra[@]}"
  reasongrm run "$recipe" "$@" "${extra[@]}" 2> >(tee "$notes/words" >&2) &
  pid=$!
  wait_for "$pid" || status=$?
  finish "$status"
}

finish() { # STATUS of the job's command
  local cause nodes
  sleep 0.2 # for tee
  cause=$(words_of "$notes/words" 2>/dev/null || true)
  cause=${cause:-it ended with status $1 and said nothing}
  if [ "$1" = 0 ]; then
    if [ -f "$partial/stopped.json" ] && [ -n "$ending" ]; then requeue "$ending; saved, and goes on from there"; fi
    if [ -f "$partial/stopped.json" ]; then
      if [ -n "$terminated" ] && ! cancelled; then requeue "preempted; saved, and goes on from there"; fi
      summarize "stopped: $cause"
      exit 1 # keep dependent jobs from starting
    fi
    summarize "done: $artefact"
    exit 0
  fi
  if cancelled; then
    summarize "stopped: $cause"
    exit "$1"
  fi
  if [ "$1" = $((128 + 10)) ] && [ -n "$ending" ]; then requeue "$ending"; fi # SIGUSR1 before Python had a handler
  nodes=$(lost_nodes)
  if [ -n "$nodes" ]; then requeue "lost $nodes: $cause" "$nodes"; fi
  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ] && [ "$(restarts)" = 0 ]; then requeue "once more after a failure: $cause"; fi
  summarize "failed: $cause"
  exit "$1"
}

run_shard() { # STAGE [RECIPE OR FOLDER] [KEY=VALUE...]: run this array task's shard
  local count=${REASONGRM_SHARDS:-${SLURM_ARRAY_TASK_COUNT:-1}} index=${SLURM_ARRAY_TASK_ID:-1} recipe
  if [ "$count" = 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    run_stage "$@"
  fi
  if [ "$index" -lt 1 ] || [ "$index" -gt "$count" ]; then
    die "this is task $index of $count; submit with --array=1-$count, or set REASONGRM_SHARDS to the number of shards"
  fi
  recipe=$(find_recipe "$1" "${2:-}")
  run_stage "$@" "$1.shard=$index/$count" "name=$(basename "$recipe" .yaml).${index}of$count"
}

run_merge() { # STAGE SHARDS [RECIPE OR FOLDER] [KEY=VALUE...]: merge the artefacts of all shards
  local stage=$1 count=$2 recipe name shards='' index
  shift 2
  recipe=$(find_recipe "$stage" "${1:-}")
  name=$(basename "$recipe" .yaml)
  for ((index = 1; index <= count; index++)); do shards+=",\"@$name.${index}of$count\""; done
  run_stage "$stage" "$@" "$stage.shards=[${shards#,}]"
}

run_conversion() { # PROGRAM SOURCE TARGET [OPTIONS]: convert unless TARGET was made from the same weights
  local program=$1 source=$2 target=$3 status=0
  shift 3
  if [ -z "${SLURM_JOB_ID:-}" ]; then
    say "not in a Slurm job, so nothing runs; sbatch ${BASH_SOURCE[-1]} would run conversion/$program.py $source $target $*"
    exit 0
  fi
  begin_job
  runs_dir=$(dirname "$target") artefact=$target
  note_job "$(basename "$target")"
  "${trainer[@]}" "$checkout/conversion/$program.py" "$source" "$target" --if-changed "$@" 2> >(tee "$notes/words" >&2) &
  pid=$!
  wait_for "$pid" || status=$?
  finish "$status"
}

find_recipe() { # STAGE [RECIPE OR FOLDER]
  local where=${2:-} found
  if [ -z "$where" ] || [[ $where == *=* ]]; then where=${REASONGRM_PIPELINE:-recipes/qwq_32b}; fi
  if [ ! -e "$where" ] && [ -e "$submitted_from/$where" ]; then where=$submitted_from/$where; fi
  if [ -f "$where" ]; then
    echo "$where"
    return
  fi
  for found in "$where"/*_"$1".yaml; do
    if [ -f "$found" ]; then
      echo "$found"
      return
    fi
  done
  die "$where has no recipe *_$1.yaml; name a folder or recipe: sbatch launch/$1.sbatch FOLDER [KEY=VALUE...]"
}

dry_run() { # RECIPE [KEY=VALUE...]: print what the job would do, and exit
  local template=${BASH_SOURCE[-1]}
  load_environment
  set_fabric
  set_scratch
  set_containers
  say "not in a Slurm job, so nothing runs; sbatch $template would ask for"
  sed -n 's/^#SBATCH /  /p' "$template"
  reasongrm preflight "$@" "${extra[@]}" --dry-run --job-nodes "$(sed -n 's/^#SBATCH --nodes=//p' "$template")"
  exit 0
}

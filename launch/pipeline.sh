#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Submits all recipes of a folder as a chain of dependent Slurm jobs. Safe to run again: finished stages are
# skipped, and jobs that wait or run are not submitted twice.
#   launch/pipeline.sh [--dry-run] [--shards N] [--from STAGE] [--to STAGE] [--no-conversion] FOLDER [KEY=VALUE...]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dry='' options=()
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=1 ;;
    --no-conversion) options+=("$1") ;;
    --shards | --from | --to)
      options+=("$1" "${2:?$1 needs a value}")
      shift
      ;;
    -h | --help)
      sed -n '3,5s/^# *//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) die "unknown option $1; see --help" ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || die "name a folder of recipes, e.g. launch/pipeline.sh recipes/qwq_32b"
folder=$1
shift
if [ ! -e "$folder" ] && [ -e "$submitted_from/$folder" ]; then folder=$submitted_from/$folder; fi

load_environment
# list jobs before checking which stages are done, so that a job that ends in between counts as queued or done
queue=" $(squeue -h -o %A 2>/dev/null | tr '\n' ' ' || true)"
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT
reasongrm chain "$folder" "$@" "${options[@]}" --shell >"$plan"
# shellcheck source=/dev/null
runs_dir=$(head -n 1 "$plan")
book=$runs_dir/.launch
if [ -z "$dry" ]; then
  mkdir -p "$book"
  exec 9>"$book/.lock"
  flock -n 9 || die "another pipeline.sh is submitting jobs for $runs_dir"
fi

queued() { # JOB: whether the job waits or runs
  [[ $queue == *" $1 "* ]]
}

submit() { # NAME TEMPLATE ARRAY SHARDS NODES ARGUMENTS...
  local name=$1 template=$2 array=$3 shards=$4 nodes=$5 words=() own=REASONGRM_SBATCH_$2 site=() number=%j
  shift 5
  if [ -n "$array" ]; then number=%A_%a; fi
  # the log's folder must exist, or the job fails without a message
  words=(sbatch --parsable --job-name="$name" --output="$book/%x-$number.log")
  if [ -n "$nodes" ]; then words+=(--nodes="$nodes"); fi # from the recipe; the site's options follow
  read -ra site <<<"${REASONGRM_SBATCH:-} ${!own:-}"
  words+=("${site[@]}")
  if [ -n "$array" ]; then words+=(--array="$array"); fi
  # without kill-on-invalid-dep, jobs that depend on a failed one would wait forever
  if [ -n "$previous" ]; then words+=(--dependency="afterok:$previous" --kill-on-invalid-dep=yes); fi
  words+=(--export="ALL,REASONGRM_SHARDS=$shards" "$launch/$template.sbatch" "$@")
  if [ -n "$dry" ]; then
    printf '  %q' "${words[@]}"
    printf '\n'
    previous="<$name>"
    return
  fi
  previous=$("${words[@]}")
  previous=${previous%%;*} # in a federation, the cluster's name follows
  printf '%s' "$previous" >"$book/$name.id"
}

previous=''
while IFS=$'\t' read -r -a row; do
  name=${row[0]} template=${row[1]} state=${row[2]} array=${row[3]#-} shards=${row[4]} nodes=${row[5]#-}
  id=$(cat "$book/$name.id" 2>/dev/null || true)
  if [ "$state" = "done" ]; then
    say "$name: done before"
  elif [ -n "$id" ] && queued "$id"; then
    say "$name: job $id waits or runs already"
    previous=$id
  else
    mapfile -t arguments < <(printf '%s\n' "${row[@]:6}")
    submit "$name" "$template" "$array" "$shards" "$nodes" "${arguments[@]}"
    say "$name: job $previous, $template.sbatch"
  fi
done < <(tail -n +2 "$plan")
if [ -n "$dry" ]; then say "dry run: nothing was submitted"; else say "see launch/status $runs_dir"; fi

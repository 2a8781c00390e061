#!/usr/bin/env bash
# Run jsaeval on a TPU slice of a GKE cluster, as a JobSet.
#
#   tpu/gke.sh --name sweep --image IMAGE --accelerator tpu-v5-lite-podslice --topology 4x4 --hosts 4 --chips 4 \
#       --bucket MY_BUCKET -- --lm LM_FOLDER --sae 'SAES/*' --rows 8192 --mesh 4,4
#
# What follows -- goes to `jsaeval run`, which runs in the mounted bucket. IMAGE comes from tpu/Containerfile. A pod that
# is evicted gets SIGTERM, writes a checkpoint, and goes on when it is back. --dry-run prints the manifest.
set -euo pipefail
cd "$(dirname "$0")"

known='name image accelerator topology hosts chips bucket'
declare -A given=([chips]=4)
dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  if [[ $1 == --dry-run ]]; then
    dry=yes
  elif [[ $1 == --* && " $known " == *" ${1#--} "* && $# -gt 1 ]]; then
    given[${1#--}]=$2
    shift
  else
    echo "$0: $1: a flag with a value was expected, of: --${known// / --}" >&2
    exit 2
  fi
  shift
done
shift || true
for flag in $known; do
  [[ -n ${given[$flag]:-} ]] || { echo "$0: --$flag is missing" >&2; exit 2; }
done

arguments=''
for word in run --out "${given[name]}" --resume "$@"; do
  word=${word//\\/\\\\}
  arguments+="\"${word//\"/\\\"}\", "
done
manifest=$(<gke_jobset.yaml)
for flag in $known; do
  manifest=${manifest//"{{$flag}}"/"${given[$flag]}"}
done
manifest=${manifest//"{{arguments}}"/"${arguments%, }"}
if [[ -n $dry ]]; then echo "$manifest"; else kubectl apply -f - <<<"$manifest"; fi

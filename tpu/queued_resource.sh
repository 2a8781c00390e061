#!/usr/bin/env bash
# Run jsaeval on a TPU slice: ask for a queued resource, wait, install, run, delete; again where it was preempted.
#
#   tpu/queued_resource.sh --name sweep --type v5litepod-16 --zone us-west4-a --bucket MY_BUCKET --spot -- \
#       --lm LM_FOLDER --sae 'SAES/*' --rows 8192 --mesh 4,4
#
# What follows -- goes to `jsaeval run`. Results and checkpoints lie in the bucket, so a retry goes on where it stopped.
# The command runs in the mounted bucket: paths are those in it. --dry-run prints what it would do.
set -euo pipefail
cd "$(dirname "$0")/.."

known='name type zone bucket retries'
declare -A given=([retries]=5)
create=() dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  if [[ $1 == --dry-run ]]; then
    dry=yes
  elif [[ $1 == --spot ]]; then
    create=(--spot)
  elif [[ $1 == --* && " $known " == *" ${1#--} "* && $# -gt 1 ]]; then
    given[${1#--}]=$2
    shift
  else
    echo "$0: $1: --spot, --dry-run, or a flag with a value was expected, of: --${known// / --}" >&2
    exit 2
  fi
  shift
done
shift || true
for flag in $known; do
  [[ -n ${given[$flag]:-} ]] || { echo "$0: --$flag is missing" >&2; exit 2; }
done
name=${given[name]} retries=${given[retries]}

case ${given[type]} in
  v5litepod*) image=v2-alpha-tpuv5-lite ;;
  v5p*) image=v2-alpha-tpuv5 ;;
  v6e*) image=v2-alpha-tpuv6e ;;
  *) image=tpu-ubuntu2204-base ;;
esac
do_it() { if [[ -n $dry ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }
tpus() { do_it gcloud compute tpus "$@" --zone "${given[zone]}"; }
is_ready() {
  local state='' failures=0
  while [[ $state != ACTIVE && -z $dry ]]; do
    state=$(tpus queued-resources describe "$name" --format 'value(state.state)') || ((++failures < 10)) || return 1
    case $state in ACTIVE) ;; FAILED | SUSPENDED) return 1 ;; *) sleep "${POLL:-30}" ;; esac
  done
}
# A slice costs money until it is deleted, so whatever ends this script deletes it.
asked=''
give_back() {
  [[ -n $asked ]] || return 0
  for _ in 1 2 3; do
    if tpus queued-resources delete "$name" --force --quiet; then asked=''; return 0; fi
    sleep "${POLL:-30}"
  done
  echo "$0: $name in ${given[zone]} could not be deleted; delete it yourself, it costs money" >&2
}
trap give_back EXIT
trap 'exit 130' INT TERM HUP
everywhere() { tpus tpu-vm ssh "$name" --worker all --command "$1"; }

# gcsfuse keeps the bucket in reach; Python of the images is too old, so uv brings one.
read -r -d '' install <<END || true
set -e
command -v gcsfuse >/dev/null || { sudo apt-get update -qq; sudo apt-get install -qq -y gcsfuse; }
mkdir -p runs; mountpoint -q runs || gcsfuse --implicit-dirs ${given[bucket]} runs
curl -LsSf https://astral.sh/uv/install.sh | sh
.local/bin/uv venv -q --clear --python 3.12 venv
.local/bin/uv pip install -q --python venv/bin/python "\$(ls ./*.whl)[tpu]"
END
flags=''
if (($#)); then printf -v flags '%q ' "$@"; fi
work="cd runs && ../venv/bin/jsaeval run --out $name --resume $flags"

wheels=$(mktemp -d)
do_it "${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$wheels" .
for ((try = 1; try <= retries; try++)); do
  asked=yes
  tpus queued-resources create "$name" --node-id "$name" --accelerator-type "${given[type]}" \
    --runtime-version "$image" "${create[@]}"
  code=1
  if is_ready && tpus tpu-vm scp "$wheels"/*.whl "$name:" --worker all && everywhere "$install"; then
    code=0
    everywhere "$work" || code=$?
  fi
  give_back
  # 0 done, 2 bad input, 3 some SAEs failed: another try would change nothing.
  case $code in 0 | 2 | 3) exit "$code" ;; esac
  echo "$0: try $try of $retries ended with $code" >&2
done
exit 1

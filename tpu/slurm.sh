#!/usr/bin/env bash
# Run jsaeval on the GPUs of a Slurm cluster: one process a node.
#
#   sbatch --nodes 4 --gpus-per-node 8 tpu/slurm.sh --lm LM_FOLDER --sae 'SAES/*' --rows 8192 --mesh 16,2 --out runs/sweep
#
# All flags go to `jsaeval run`. VENV is an environment with `pip install '.[cuda]'`, on a file system that all nodes see.
# Two minutes before the time is up Slurm sends SIGTERM; the run writes a checkpoint, and the job queues itself again.
#SBATCH --job-name jsaeval
#SBATCH --ntasks-per-node 1
#SBATCH --signal TERM@120
#SBATCH --requeue
#SBATCH --open-mode append
set -euo pipefail

# One process a node takes all of its GPUs; JAX would give it one.
export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$(seq -s, 0 $((${SLURM_GPUS_ON_NODE:-1} - 1)))}
if [[ ${1:-} == --dry-run ]]; then
  shift
  echo srun --kill-on-bad-exit=1 "${VENV:-.venv}/bin/jsaeval" run --resume "$@"
  exit
fi
code=0
srun --kill-on-bad-exit=1 "${VENV:-.venv}/bin/jsaeval" run --resume "$@" || code=$?
if [[ $code == 143 && ${SLURM_RESTART_COUNT:-0} -lt 20 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

#!/bin/bash
# A sweep as a job array, without Ray: one run in each job.
#
#   .venv/bin/python -m experiments.sweep --games atari57 --seeds 3 --preset gpu --list
#   sbatch --array=0-170%16 experiments/cluster_recipes/slurm_array.sh \
#     --games atari57 --seeds 3 --preset gpu --sweep-dir /shared/atari57
#   .venv/bin/python -m experiments.scoreboard /shared/atari57
#
# Numbers are those of --list; give it and the jobs the same arguments. 300 s before
# the time is over SLURM sends USR1 to this script alone (B:), which hands it to the
# run: that saves, exits with 130, and the job is queued again.
#SBATCH --job-name=r2d2-sweep
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus=1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

: "${VENV:=.venv}"
: "${SLURM_ARRAY_TASK_ID:?run it with sbatch --array}"

"$VENV/bin/python" -m experiments.sweep "$@" --only "$SLURM_ARRAY_TASK_ID" &
command=$!
trap 'kill -USR1 "$command"' USR1 TERM
# A wait may end with the signal; the next one then ends with the command. Where it
# was the command's own code, there is nothing left to wait for: 127.
wait "$command"
code=$?
if [ "$code" -gt 128 ]; then
  wait "$command"
  again=$?
  [ "$again" -ne 127 ] && code=$again
fi
[ "$code" -eq 130 ] &&
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
exit "$code"

#!/bin/bash
# One run on a SLURM allocation: sbatch experiments/cluster_recipes/slurm.sh
#
# The first node is Ray's head and runs the command; the others are workers. 300 s
# before the time is over SLURM sends USR1 to this script alone (B:), which hands it
# to the command: that saves, exits with 130, and the job is queued again.
#SBATCH --job-name=r2d2
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

: "${RUN_DIR:=$PWD/runs/$SLURM_JOB_ID}"
: "${VENV:=.venv}"
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address |
  awk '{print $1}')

# One secret for this job's nodes: without it whoever reaches a port runs code.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0

srun --nodes=1 --ntasks=1 -w "$head" "$VENV/bin/ray" start --head --block \
  --node-ip-address="$address" --port="$port" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false &
sleep 20
srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) \
  --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
  "$VENV/bin/ray" start --block --address="$address:$port" \
  --num-cpus="$SLURM_CPUS_PER_TASK" &

"$VENV/bin/python" -m experiments.cluster --preset paper \
  --cluster.address="$address:$port" --run.run-dir="$RUN_DIR" \
  --cluster.actors=32 --cluster.replay-cpus=4 --cluster.learner-cpus=8 "$@" &
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
[ "$code" -eq 130 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"

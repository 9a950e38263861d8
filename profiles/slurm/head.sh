#!/bin/bash
# Snakemake in a job of its own, where no long process may run on a login node. From the checkout, with what you would give to Snakemake:
#
#   sbatch profiles/slurm/head.sh all --configfile config/paper.yaml
#
# Ten minutes before its wall time the head puts itself back into the queue; its jobs stay there, and it waits for them when it runs again.
# `scancel --signal=USR1 --batch JOBID` does the same at any time. Options of sbatch before the script's name win over these:
#SBATCH --job-name=xtalrl-head
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=1-00:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --output=xtalrl-head.log
#SBATCH --open-mode=append
#SBATCH --requeue

id=$SLURM_JOB_ID restarts=${SLURM_RESTART_COUNT:-0}
script=$(scontrol show job "$id" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')  # this one is a copy in SLURM's spool folder
profile=$(dirname "$script")
case ${TMPDIR:-} in *"$id"*) unset TMPDIR ;; esac  # a folder of this job alone
# What this job is must not become what its jobs ask for.
for name in "${!SLURM_@}" "${!SBATCH_@}" "${!SRUN_@}" CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL; do
  [ "$name" = SLURM_CONF ] || unset "$name"
done

# A head that SLURM started again left its lock behind.
[ "$restarts" = 0 ] || snakemake --profile "$profile" --unlock "$@"

snakemake --profile "$profile" "$@" &
snakemake=$!
trap 'leaving=yes; kill -USR1 $snakemake' USR1
while true; do
  wait $snakemake
  status=$?
  kill -0 $snakemake 2>/dev/null || break  # else the wait was ended by the signal
done
[ -n "${leaving:-}" ] || exit $status
scontrol requeue "$id" || exec sbatch "$script" "$@"  # a new job where SLURM requeues none
sleep 60  # until SLURM ends this one

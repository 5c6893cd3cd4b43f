#!/usr/bin/env bash
# Train on several nodes under Slurm, a process for each GPU. UNTESTED: it was written without a cluster at hand.
#
#     sbatch tools/train_slurm.sh options/train/train_HAT_SRx4_ImageNet_from_scratch.yml [KEY:SUB=VALUE ...]
#
# A node that is lost ends the processes; torchrun starts them again, up to --max-restarts times, and --auto_resume goes
# on from the last complete checkpoint (logger:save_checkpoint_freq says how many iterations that is). A job that is
# requeued does the same. The folder of the option file must be on a file system that all nodes see.
#SBATCH --job-name=hatdet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

options=${1:?an option file}
shift
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
changes=()
if [ "$#" -gt 0 ]; then
    changes=(--force_yml "$@")
fi

export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / ${SLURM_GPUS_ON_NODE:-1}))
srun torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id="$SLURM_JOB_ID" \
    --rdzv_backend=c10d \
    --rdzv_endpoint="$head:29500" \
    --max-restarts=3 \
    -m hatdet.training -opt "$options" --launcher pytorch --auto_resume "${changes[@]}"

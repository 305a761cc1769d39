#!/bin/bash
# Written by `ismn plan --slurm`; sha256 of the lines below: 3fba3c358092d9c4a5cb0a17eb14878c48b7d8d721d0bb3b7a47081a17c8e43d
#SBATCH --job-name=ismn-mine-submit
#SBATCH --time=00:05:00
#SBATCH --mem=100M
#
# 24 shards of mine, each of 55 min on the machine where this was planned,
# and a job after them that puts them together.
# Time and memory are 2 times what is predicted. Run again, it leaves alone what is done.
# From the environment: SBATCH_PARTITION, SBATCH_ACCOUNT; SBATCH_TIMELIMIT goes before the times below.
set -euo pipefail

folder='/srv/it'"'"'s mine'
shards=$(sbatch --parsable --chdir="$folder" --array=1-24 <<'SHARDS'
#!/bin/bash
#SBATCH --job-name=ismn-mine-shard
#SBATCH --time=02:01:00
#SBATCH --mem=9216M
#SBATCH --ntasks=1 --cpus-per-task=2
#SBATCH --gres=gpu:1
#SBATCH --requeue --open-mode=append
set -euo pipefail
export OMP_NUM_THREADS=2
export ISMN_HOME=/home/me/.ismn
exec /opt/ismn/bin/ismn run '/srv/it'"'"'s mine/mine.yaml' 'defence=[none, ismn]' --store 's3://bucket/a b' --shard "$SLURM_ARRAY_TASK_ID"/24
SHARDS
)

report=$(sbatch --parsable --chdir="$folder" --dependency="afterok:${shards%%;*}" --kill-on-invalid-dep=yes <<'REPORT'
#!/bin/bash
#SBATCH --job-name=ismn-mine-report
#SBATCH --time=1-02:01:00
#SBATCH --mem=2048M
#SBATCH --ntasks=1 --cpus-per-task=2
#SBATCH --gres=gpu:1
#SBATCH --requeue --open-mode=append
set -euo pipefail
export OMP_NUM_THREADS=2
export ISMN_HOME=/home/me/.ismn
/opt/ismn/bin/ismn run '/srv/it'"'"'s mine/mine.yaml' 'defence=[none, ismn]' --store 's3://bucket/a b'
/opt/ismn/bin/ismn report --format markdown -o slurm-mine.md
REPORT
)

echo "Submitted: shards as job ${shards%%;*}, the report as job ${report%%;*}."

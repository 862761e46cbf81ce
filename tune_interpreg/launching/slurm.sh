#!/bin/bash
# The study @@study on @@nodes Slurm nodes that form one Ray cluster. Submit it:  sbatch FILE
#
# It needs a folder that all nodes share, for the store, and on all nodes @@needs.
# Before its time limit the run stops in order and is queued again, and goes on where it was; so it does where Slurm
# itself requeues it, or you submit the file again. `scancel` ends it.
#SBATCH --job-name=@@name
#SBATCH --output=@@name-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=@@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@@cpus
#SBATCH --time=@@time
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
@@more
set -uo pipefail
@@environment
store=@@store

# Whoever reaches a Ray cluster can run code there: it asks for a token of this job's own, which only its user can read.
job=$store.job-$SLURM_JOB_ID
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/auth_token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nodes end after the run, which has left nothing to wait for
mkdir -p "${store%/*}" && mkdir -p -m 700 "$job" || exit 1
(umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH") || exit 1

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]} port=$((20000 + SLURM_JOB_ID % 10000 * 2)) scratch=/tmp/ray-$SLURM_JOB_ID
export RAY_ADDRESS=$head:$port

steps=()
node() {  # HOST, and options of `ray start`. No port is a usual one: other jobs may have a part of the same machine.
    srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task=@@cpus @@{within}ray start "${@:2}" --block \
        --num-cpus=@@cpus --num-gpus=@@gpus --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
        < /dev/null &
    steps+=($!)
}
finish() {
    kill "${steps[@]}" 2> /dev/null
    wait "${steps[@]}"
    rm -rf "$job" "$scratch"
}
trap finish EXIT

node "$head" --head --port="$port" --ray-client-server-port="$((port + 1))" --include-dashboard=false \
    --temp-dir="$scratch"
until (: < "/dev/tcp/$head/$port") 2> /dev/null; do
    kill -0 "${steps[0]}" 2> /dev/null || { echo "error: the head node on $head did not start" >&2; exit 1; }
    sleep 1
done
for host in "${hosts[@]:1}"; do  # the run waits for none of them: each takes trials as soon as it is there
    node "$host" --address="$RAY_ADDRESS"
done

again=
@@{within}@@command &
run=$!
trap 'again=1; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM INT
wait "$run"
code=$?
while ((code > 128)) && kill -0 "$run" 2> /dev/null; do  # a signal has ended the waiting, not the run
    wait "$run"
    code=$?
done
if [ "$again" ] && ((code == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

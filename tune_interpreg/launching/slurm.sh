{#
# The command and its options (see render.py). commands/launch.py lists the other variables.
name: slurm
help: |
  Print an sbatch script. Its nodes form a Ray cluster with its own token, and the study runs on it.

  Example:  tune-interpreg launch slurm mnist --nodes 4 --gpus-per-node 1 --set resources.gpus=1 > job.sh
store: runs/{study}
options:
  nodes: {default: 2, min: 1, metavar: N, help: Number of nodes that run trials.}
  cpus-per-node: {default: 8, min: 1, metavar: N, help: CPU cores per node.}
  gpus-per-node: {default: 0, min: 0, metavar: N, help: GPUs per node.}
  store: {rule: store, metavar: PATH, help: "Folder for all results, shared by all nodes. Default: NAME in ./runs."}
  data-root: {rule: path, metavar: PATH, help: "Folder with the data set's files, on every node."}
  image:
    {rule: word, metavar: IMAGE,
     help: "Apptainer image, docker://… or a .sif file. Default: the environment of this Python."}
  time:
    {default: "8:00:00", rule: time, metavar: TIME,
     help: Time limit of one job; the next job resumes the study.}
  partition: {rule: word, metavar: NAME, help: Slurm partition.}
-#}
{{ check_nodes(cpus_per_node, gpus_per_node) -}}
#!/bin/bash
# Runs the study {{ study }} on {{ nodes }} Slurm nodes that form one Ray cluster. Submit it:  sbatch FILE
#
# Requirements: a folder for the store that all nodes share, and on all nodes
# {{ "Apptainer and the image" if image else "the environment in " ~ programs }}.
# Before its time limit, the run stops and the job is queued again; it then resumes. The run also resumes when Slurm
# requeues the job or you submit this file again. `scancel` ends it.
#SBATCH --job-name={{ label }}
#SBATCH --output={{ label }}-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={{ cpus_per_node }}
#SBATCH --time={{ time }}
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
{% if gpus_per_node %}
#SBATCH --gpus-per-node={{ gpus_per_node }}
{% endif %}
{% if partition %}
#SBATCH --partition={{ partition }}
{% endif %}
{% if image %}
{% set binds = folders + ([file.parent | string] if file else []) %}
{% set inside = ["apptainer", "exec"] + (["--nv"] if gpus_per_node else []) + ["--bind", binds | join(","), image] %}
{% set prefix = inside | shell ~ " " %}
{% else %}
{% set prefix = "" %}
{% endif %}
set -uo pipefail
{% if not image %}
export PATH={{ [programs] | shell }}:$PATH
{% endif %}
store={{ [store] | shell }}

# Anyone who reaches a Ray cluster can run code on it. This cluster asks for a token that only this user can read.
job=$store.job-$SLURM_JOB_ID
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/auth_token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nodes end after the run; there is nothing left to wait for
mkdir -p "${store%/*}" && mkdir -p -m 700 "$job" || exit 1
(umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH") || exit 1

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]} port=$((20000 + SLURM_JOB_ID % 10000 * 2)) scratch=/tmp/ray-$SLURM_JOB_ID
export RAY_ADDRESS=$head:$port
getent hosts "$head" > /dev/null || {
    echo "error: the name of the head node, $head, does not resolve on $(hostname); add it to DNS or to /etc/hosts" >&2
    rm -rf "$job"
    exit 1
}

# Not by `ray symmetric-run`: it passes no signal to the run, ends with code 0 if the head does not start, and its
# `ray stop` ends the Ray of other jobs on a shared machine.
steps=()
# Start a node: HOST, then options of `ray start`. No port is Ray's default, because other jobs may share the machine.
node() {
    srun --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task={{ cpus_per_node }} {{ prefix }}ray start "${@:2}" --block \
        --num-cpus={{ cpus_per_node }} --num-gpus={{ gpus_per_node }} --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
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
patience=900 # seconds; an image may have to be fetched first
until timeout 5 bash -c ": < /dev/tcp/$head/$port" 2> /dev/null; do
    kill -0 "${steps[0]}" 2> /dev/null || { echo "error: the head node on $head did not start" >&2; exit 1; }
    if ((SECONDS > patience)); then
        echo "error: $(hostname) has waited $patience s for port $port of the head node on $head, which does not answer;" \
            "open the ports from 20000 on between the nodes, or raise patience in this script" >&2
        exit 1
    fi
    sleep 1
done
for host in "${hosts[@]:1}"; do  # the run does not wait for these: each takes trials as soon as it has joined
    node "$host" --address="$RAY_ADDRESS"
done

requeue=
{{ prefix }}{{ command | shell }} &
run=$!
trap 'requeue=1; kill -TERM "$run" 2> /dev/null' USR1
trap 'kill -TERM "$run" 2> /dev/null' TERM INT
wait "$run"
code=$?
while ((code > 128)) && kill -0 "$run" 2> /dev/null; do  # a signal ended `wait`, not the run
    wait "$run"
    code=$?
done
if [ "$requeue" ] && ((code == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

"""Check the files that `launch` prints for Slurm, KubeRay and `ray up`, and run the sbatch script on two Ray nodes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.cli import call, output, refusal
from helpers.kept import epochs
from helpers.kuberay import RAYJOB

EPOCHS = 150
TINY = f"""\
data: {{name: digits, train_limit: 160, validation: 60, test_limit: 60}}
training: {{epochs: {EPOCHS}, batch_size: 32, lr: 0.05}}
attack: {{norm: l2, eps: 0.5, steps: 2}}
seeds: [0, 1, 2]
checks: null
arms:
  standard: {{method: standard}}
"""

#: Nodes with GPUs are refused for trials that use none.
GPU = ("--set", "resources.gpus=1")

#: Two hosts on this machine. Like Slurm, the stub starts a session per step and sends SIGTERM to all of it.
SRUN = """\
#!/bin/bash
echo "srun $*" >> "$STUB_LOG"
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && export SLURMD_NODENAME=${1#*=}; shift; done
setsid "$@" &
step=$!
trap 'kill -TERM -- -$step' TERM
wait $step; wait $step
"""
SCONTROL = """\
#!/bin/bash
echo "scontrol $*" >> "$STUB_LOG"
[ "$1 $2" = "show hostnames" ] && printf '%s\\n' localhost node-b
exit 0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder. It holds a study with a name and path that need quoting."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My study's.yaml").write_text(TINY)
    return tmp_path


def printed(*arguments: str) -> str:
    return output("launch", *arguments)


def refused(*arguments: str) -> str:
    return refusal("launch", *arguments)


# -------------------------------------------------------------------------- slurm
def directives(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, flags=re.M))


def test_slurm_script_requests_the_resources_of_the_options() -> None:
    sizes = ("--nodes", "4", "--cpus-per-node", "6", "--gpus-per-node", "2")
    script = printed("slurm", "mnist", *sizes, *GPU, "--time", "1-0", "--partition", "gpu", "--store", "/shared/mnist")
    expected = {"nodes": "4", "cpus-per-task": "6", "gpus-per-node": "2", "time": "1-0", "partition": "gpu"}
    assert expected.items() <= directives(script).items()
    assert directives(script).keys() >= {"requeue", "signal"}
    assert "--num-cpus=6 --num-gpus=2" in script
    command = "tune-interpreg run mnist --cluster auto --store /shared/mnist --set resources.gpus=1"
    assert f"\n{command} &\n" in script
    assert not {"gpus-per-node", "partition"} & directives(printed("slurm", "mnist")).keys()


def test_slurm_script_quotes_names_and_paths(folder: Path) -> None:
    options = ("--set", "seeds=[0, 1]", "--store", "/shared/my runs/$x", "--data-root", "/data sets")
    script = printed("slurm", "My study's.yaml", *options)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert directives(script)["job-name"] == "my-study-s"
    command = next(line for line in script.splitlines() if line.startswith("tune-interpreg run "))
    words = ["tune-interpreg", "run", str(folder / "My study's.yaml"), "--cluster", "auto", "--store"]
    assert shlex.split(command) == [
        *words,
        *["/shared/my runs/$x", "--data-root", "/data sets", "--set", "seeds=[0, 1]", "&"],
    ]


def test_slurm_script_runs_ray_and_the_study_in_the_image(folder: Path) -> None:
    options = ("--image", "docker://me/study:1", "--gpus-per-node", "1", *GPU, "--data-root", "/data")
    script = printed("slurm", "My study's.yaml", *options, "--store", "/shared/mnist")
    prefix = f"apptainer exec --nv --bind /shared,/data,{folder} docker://me/study:1 "
    assert f" {prefix}ray start " in script
    assert f"\n{prefix}tune-interpreg run " in script
    assert "export PATH" not in script


@pytest.fixture
def slurm(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return the script for two hosts of one core each, and the environment of a job with stubs for Slurm."""
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    script = folder / "job.sh"
    store = str(folder / "shared" / "store")
    script.write_text(printed("slurm", "tiny.yaml", "--nodes", "2", "--cpus-per-node", "1", "--store", store))
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node-[a-b]", "STUB_LOG": str(folder / "stub.log")}
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    return script, job | {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def end_job(slurm: tuple[Path, dict[str, str]], folder: Path, stub: str, text: str) -> str:
    """Run the job with another stub, which ends it with code 1 and no files, and return its errors."""
    script, environment = slurm
    (folder / "bin" / stub).write_text(f"#!/bin/bash\n{text}\n")
    ran = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert list((folder / "shared").iterdir()) == []
    return ran.stderr


def test_slurm_job_ends_if_the_head_does_not_start(slurm: tuple[Path, dict[str, str]], folder: Path) -> None:
    assert end_job(slurm, folder, "srun", "exit 1") == "error: the head node on localhost did not start\n"


def test_slurm_job_ends_if_the_name_of_the_head_does_not_resolve(
    slurm: tuple[Path, dict[str, str]], folder: Path
) -> None:
    errors = end_job(slurm, folder, "scontrol", "echo no-such-host.invalid")
    assert "no-such-host.invalid, does not resolve" in errors


def test_slurm_job_ends_if_the_port_of_the_head_does_not_answer(
    slurm: tuple[Path, dict[str, str]], folder: Path
) -> None:
    script, _ = slurm
    script.write_text(script.read_text().replace("patience=900", "patience=2"))
    assert "has waited 2 s for port" in end_job(slurm, folder, "srun", "exec sleep 60")


@pytest.mark.ray
@pytest.mark.slow
def test_slurm_job_runs_the_study_on_two_nodes_and_resumes_after_its_time_limit(
    slurm: tuple[Path, dict[str, str]], folder: Path
) -> None:
    """Run two real Ray nodes that ask for the job's token. Slurm's warning ends the job, which is queued again."""
    script, environment = slurm
    shared = folder / "shared"
    with (folder / "first.log").open("w") as log:
        job = subprocess.Popen(["bash", str(script)], env=environment, stdout=log, stderr=log)
        # Two nodes train, each in a process of its own. One may have finished a training before the other starts.
        wait(
            lambda: len(workers(shared)) >= 2 <= len(list(shared.glob("store/checkpoints/*/epoch.*"))),
            job,
            folder / "first.log",
        )
        (token,) = shared.glob("store.job-*/auth_token")
        assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=90) == 143, (folder / "first.log").read_text()
    assert f"scontrol requeue {environment['SLURM_JOB_ID']}\n" in (folder / "stub.log").read_text()
    first, interrupted = workers(shared), unfinished_trainings(shared / "store")
    assert interrupted
    ran = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 of 3 repeats done" in ran.stdout
    assert workers(shared) > first
    for trial in shared.glob("store/tensorboard/*/*/"):
        trained = epochs(trial)
        assert len(trained) == 1 + (trial.name in interrupted)
        assert {epoch for worker in trained for epoch in worker} == set(range(1, EPOCHS + 1))
        assert sum(map(len, trained)) <= EPOCHS + (trial.name in interrupted)  # the epoch under way at the warning
    steps = re.findall(r"^srun .*--nodelist=(\S+) .* ray start (--\w+)", (folder / "stub.log").read_text(), flags=re.M)
    assert steps == 2 * [("localhost", "--head"), ("node-b", "--address")]
    assert [path.name for path in shared.iterdir()] == ["store"]
    assert not Path(f"/tmp/ray-{environment['SLURM_JOB_ID']}").exists()


def workers(shared: Path) -> set[str]:
    """Return the pids of the processes that have written TensorBoard events."""
    return {file.suffix for file in shared.glob("store/tensorboard/*/*/events.*")}


def unfinished_trainings(store: Path) -> set[str]:
    """Return the TensorBoard runs of the trainings with an epoch and without a record."""
    records = [json.loads(path.read_text()) for path in store.glob("ledger/*/*.json")]
    finished = {record["run"] for record in records if record["kind"] == "train"}
    return {trial.name for trial in store.glob("tensorboard/*/*/") if epochs(trial)} - finished


def wait(condition: Any, job: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


# ------------------------------------------------------------------------- kuberay
@pytest.mark.parametrize("gpus", [0, 2])
def test_rayjob_follows_kuberays_documentation(gpus: int) -> None:
    sizes = ("--nodes", "3", "--cpus-per-node", "4", "--gpus-per-node", str(gpus))
    overrides = GPU if gpus else ()
    manifest = yaml.safe_load(printed("kuberay", "mnist", "--image", "me/study:1", *sizes, *overrides))
    jsonschema.validate(manifest, RAYJOB)
    cluster = manifest["spec"]["rayClusterSpec"]
    assert manifest["spec"]["backoffLimit"] == 1  # KubeRay also repeats runs that ended with failed items
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (workers,) = cluster["workerGroupSpecs"]
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    (container,) = workers["template"]["spec"]["containers"]
    limits = {"cpu": "4", "memory": "16Gi"} | ({"nvidia.com/gpu": "2"} if gpus else {})
    assert container["resources"] == {"limits": limits, "requests": limits}
    command = ["tune-interpreg", "run", "mnist", "--cluster", "auto", "--store", "/shared/mnist", *overrides]
    assert shlex.split(manifest["spec"]["entrypoint"]) == command


def test_rayjob_shows_an_image_that_copies_only_the_sources() -> None:
    lines = [line.removeprefix("#").strip() for line in printed("kuberay", "mnist", "--image", "a").splitlines()]
    assert "COPY --chown=ray . tune-interpreg" in lines
    ignored = (Path(__file__).parents[2] / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "build", "dist", "runs"} <= set(ignored)


def test_rayjob_carries_the_file_of_the_study() -> None:
    options = ("--claim", "mine", "--mount", "/mnt/nfs", "--data-root", "/mnt/nfs/data")
    manifest, files = yaml.safe_load_all(printed("kuberay", "My study's.yaml", "--image", "me/study:1", *options))
    jsonschema.validate(manifest, RAYJOB)
    study = "my-study-s.yaml"
    assert files == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "my-study-s"}, "data": {study: TINY}}
    words = shlex.split(manifest["spec"]["entrypoint"])
    assert words[2] == f"/study/{study}"
    assert words[words.index("--store") + 1] == "/mnt/nfs/My study's"
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/mnt/nfs", "study": "/study"}
        volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
        assert volumes["shared"] == {"persistentVolumeClaim": {"claimName": "mine"}}
        assert volumes["study"] == {"configMap": {"name": "my-study-s"}}


# -------------------------------------------------------------------------- ray up
def validated(text: str) -> dict[str, Any]:
    """Return the configuration as `ray up` reads it, after Ray's own validation."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


@pytest.mark.ray
def test_cluster_of_hosts_is_valid_for_ray_up() -> None:
    text = printed("ray-cluster", "My study's.yaml", "--hosts", "n1,n2,n3", "--user", "me", "--store", "/nfs/mine")
    config = validated(text)
    assert config["provider"] == {"type": "local", "head_ip": "n1", "worker_ips": ["n2", "n3"]}
    assert (config["max_workers"], config["auth"]["ssh_user"]) == (2, "me")
    study = str(Path.cwd() / "My study's.yaml")
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token", study: study}
    environment = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; export RAY_AUTH_MODE=token; "
    for stop, start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert stop == f"{environment}ray stop"  # each command runs in its own shell
        assert f"{environment}ray start " in start
    (line,) = re.findall(r"^#   (ray exec FILE .*)$", text, flags=re.M)
    *_, run = shlex.split(line)
    assert shlex.split(run.rpartition("; ")[2])[:3] == ["tune-interpreg", "run", study]


@pytest.mark.ray
def test_cluster_of_ec2_instances_is_valid_for_ray_up() -> None:
    sizes = ("--nodes", "4", "--gpus-per-node", "1", *GPU)
    config = validated(printed(*EC2, *sizes, "--store", "/efs/mnist"))
    assert config["available_node_types"]["worker"]["node_config"] == {"InstanceType": "g5.2xlarge"}
    assert config["available_node_types"]["worker"]["min_workers"] == config["max_workers"] == 3
    assert config["docker"]["image"] == "me/study:1"
    assert "-v /efs:/efs" in config["docker"]["run_options"]
    assert "mount -t nfs fs-1:/ /efs" in config["initialization_commands"][1]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


EC2 = ("ray-cluster", "mnist", "--image", "me/study:1", "--nfs", "fs-1:/")
HOSTS = ("ray-cluster", "mnist", "--hosts", "a,b")


def test_named_instance_types_and_hosts_may_have_gpus() -> None:
    worker = yaml.safe_load(printed(*EC2, *GPU, "--instance-type", "p9.large"))["available_node_types"]["worker"]
    assert worker["node_config"] == {"InstanceType": "p9.large"}
    assert yaml.safe_load(printed(*HOSTS, *GPU))["provider"]["worker_ips"] == ["b"]


# --------------------------------------------------------------------------- errors
@pytest.mark.parametrize("kind", ["slurm", "kuberay"])
def test_study_that_cannot_run_is_refused(kind: str, folder: Path) -> None:
    (folder / "wrong.yaml").write_text("data: digit\narms: {a: {method: standard}}\n")
    image = ("--image", "a") if kind == "kuberay" else ()
    assert "error: wrong.yaml:1: data: " in refused(kind, "wrong.yaml", *image)
    message = refused(kind, "mnist", "--set", "resources.cpus=9", "--gpus-per-node", "1", *image)
    assert "raise --cpus-per-node" in message
    assert "add --set resources.gpus=1" in message


KUBERAY = ("kuberay", "mnist", "--image", "a")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("slurm", "mnist", "--set", "resources.gpus=0.5"), "raise --gpus-per-node"),
        ((*EC2, *GPU), "raise --gpus-per-node"),
        ((*EC2, *GPU, "--gpus-per-node", "0", "--instance-type", "m"), "raise --gpus-per-node"),
        ((*EC2, "--gpus-per-node", "1"), "add --set resources.gpus=1"),
        ((*EC2, "--gpus-per-node", "3"), "--instance-type"),
        (("ray-cluster", "mnist"), "give --image and --nfs, or --hosts"),
        ((*HOSTS, "--nodes", "2", "--region", "r"), "--nodes and --region"),
        ((*HOSTS, "--gpus-per-node", "2", "--instance-type", "m"), "--gpus-per-node and --instance-type"),
        (("slurm", "mnist", "--store", "runs/a"), "absolute path without .., as the cluster has it, got 'runs/a'"),
        (("slurm", "mnist", "--store", "/a/../b/c"), "absolute path without .."),
        ((*KUBERAY, "--store", "/shared/../b"), "absolute path without .."),
        (("slurm", "mnist", "--store", "/top"), "/shared/top"),
        ((*HOSTS, "--nfs", "h:/e", "--store", "/top"), "/shared/top"),
        ((*KUBERAY, "--mount", "/b/c", "--store", "/b/c"), "below --mount, /b/c"),
        ((*KUBERAY, "--store", "/b/c"), "below --mount, /shared"),
        (("slurm", "mnist", "--time", "8h"), "8:00:00 or 1-0, got '8h'"),
        (("slurm", "mnist", "--partition", "a;b"), "'a;b'"),
        (("slurm", "mnist", "--nodes", "0"), "--nodes"),
        (("kuberay", "mnist"), "--image"),
    ],
)
def test_bad_options_are_refused_with_their_remedy(arguments: tuple[str, ...], named: str) -> None:
    assert named in refused(*arguments)


@pytest.mark.parametrize("kind", ["slurm", "kuberay", "ray-cluster"])
def test_help_shows_an_example_that_works(kind: str) -> None:
    text = re.sub(r"[\s│]+", " ", call("launch", kind, "--help").stdout)
    example = text.partition(f"Example: tune-interpreg launch {kind} ")[2].partition(" ╭")[0]
    assert printed(kind, *shlex.split(re.split(r" [|>] ", example)[0]))

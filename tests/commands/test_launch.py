"""`launch` prints files for Slurm, KubeRay and `ray up`: they are well-formed, and the sbatch script is run."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from click.testing import Result
from helpers.kuberay import RAYJOB
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

from tune_interpreg.cli import app
from tune_interpreg.study.file import read as study_file

TINY = """\
data: {name: digits, train_limit: 160, validation: 60, test_limit: 60}
training: {epochs: 150, batch_size: 32, lr: 0.05}
attack: {norm: l2, eps: 0.5, steps: 2}
seeds: [0, 1, 2]
checks: null
arms:
  standard: {method: standard}
"""

#: Nodes with GPUs are for trials that use them.
GPU = ("--set", "resources.gpus=1")

#: Two hosts on this machine: what Slurm would start there is a session of its own, which hears of SIGTERM as a whole.
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
    """A folder to work in, with a study whose name and path need quoting."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My study's.yaml").write_text(TINY)
    return tmp_path


def told(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["launch", *arguments])


def printed(*arguments: str) -> str:
    result = told(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(*arguments: str) -> str:
    result = told(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return re.sub(r"[\s│]+", " ", result.stderr)


# -------------------------------------------------------------------------- slurm
def directives(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, flags=re.M))


def test_the_sbatch_script_asks_for_what_it_is_told() -> None:
    sizes = ("--nodes", "4", "--cpus-per-node", "6", "--gpus-per-node", "2")
    script = printed("slurm", "mnist", *sizes, *GPU, "--time", "1-0", "--partition", "gpu", "--store", "/shared/mnist")
    asked = directives(script)
    assert (asked["nodes"], asked["cpus-per-task"], asked["gpus-per-node"]) == ("4", "6", "2")
    assert (asked["time"], asked["partition"], asked["ntasks-per-node"]) == ("1-0", "gpu", "1")
    assert {"requeue", "signal"} <= asked.keys()
    assert "--num-cpus=6 --num-gpus=2" in script
    command = "tune-interpreg run mnist --cluster auto --store /shared/mnist --set resources.gpus=1"
    assert f"\n{command} &\n" in script
    assert not {"gpus-per-node", "partition"} & directives(printed("slurm", "mnist")).keys()


def test_the_sbatch_script_quotes_what_a_shell_would_read(folder: Path) -> None:
    given = ("--set", "seeds=[0, 1]", "--store", "/shared/my runs/$x", "--data-root", "/data sets")
    script = printed("slurm", "My study's.yaml", *given)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert directives(script)["job-name"] == "my-study-s"
    command = next(line for line in script.splitlines() if line.startswith("tune-interpreg run "))
    words = ["tune-interpreg", "run", str(folder / "My study's.yaml"), "--cluster", "auto", "--store"]
    options = ["/shared/my runs/$x", "--data-root", "/data sets", "--set", "seeds=[0, 1]"]
    assert shlex.split(command) == [*words, *options, "&"]


def test_in_an_image_ray_and_the_study_run_alike() -> None:
    image = ("--image", "docker://me/study:1", "--gpus-per-node", "1", *GPU)
    script = printed("slurm", "mnist", *image, "--store", "/shared/mnist", "--data-root", "/data")
    within = "apptainer exec --nv --bind /shared,/data docker://me/study:1 "
    assert f" {within}ray start " in script
    assert f"\n{within}tune-interpreg run mnist " in script
    assert "export PATH" not in script


@pytest.fixture
def slurm(folder: Path) -> tuple[Path, dict[str, str]]:
    """The script of the study on two hosts of one core each, and the environment of a job whose Slurm is a stub."""
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


def test_a_head_that_does_not_start_ends_the_job(slurm: tuple[Path, dict[str, str]], folder: Path) -> None:
    script, environment = slurm
    (folder / "bin" / "srun").write_text("#!/bin/bash\nexit 1\n")
    ran = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, "error: the head node on localhost did not start\n")
    assert list((folder / "shared").iterdir()) == []


@pytest.mark.slow
def test_the_sbatch_script_runs_the_study_on_two_nodes_and_goes_on_after_its_time_limit(
    slurm: tuple[Path, dict[str, str]], folder: Path
) -> None:
    """Two real Ray nodes that ask for the job's token; Slurm's warning requeues the job, which then ends."""
    script, environment = slurm
    shared = folder / "shared"
    with (folder / "first.log").open("w") as log:
        job = subprocess.Popen(["bash", str(script)], env=environment, stdout=log, stderr=log)
        wait(lambda: len(list(shared.glob("store/checkpoints/*/epoch.*"))) == 2, job, folder / "first.log")
        (token,) = shared.glob("store.job-*/auth_token")
        assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert re.fullmatch(r"[0-9a-f]{64}", token.read_text())
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=90) == 143, (folder / "first.log").read_text()
    assert f"scontrol requeue {environment['SLURM_JOB_ID']}\n" in (folder / "stub.log").read_text()
    ran = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 of 3 repeats done" in ran.stdout
    assert len({file.name.split(".")[5] for file in shared.glob("store/tensorboard/*/*/events.*")}) >= 4
    assert sum(len(list(one.glob("events.*"))) == 2 for one in shared.glob("store/tensorboard/*/*/")) == 2
    steps = re.findall(r"^srun .*--nodelist=(\S+) .* ray start (--\w+)", (folder / "stub.log").read_text(), flags=re.M)
    assert steps == 2 * [("localhost", "--head"), ("node-b", "--address")]
    assert [path.name for path in shared.iterdir()] == ["store"]
    assert not Path(f"/tmp/ray-{environment['SLURM_JOB_ID']}").exists()


def wait(condition: Any, job: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


# ------------------------------------------------------------------------- kuberay
@pytest.mark.parametrize("gpus", [0, 2])
def test_the_rayjob_is_as_kuberay_documents_it(gpus: int) -> None:
    sizes = ("--nodes", "3", "--cpus-per-node", "4", "--gpus-per-node", str(gpus))
    asked = GPU if gpus else ()
    manifest = yaml.safe_load(printed("kuberay", "mnist", "--image", "me/study:1", *sizes, *asked))
    jsonschema.validate(manifest, RAYJOB)
    cluster = manifest["spec"]["rayClusterSpec"]
    assert manifest["spec"]["backoffLimit"] == 1  # KubeRay also tries again what ended with failed items
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (workers,) = cluster["workerGroupSpecs"]
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    (container,) = workers["template"]["spec"]["containers"]
    gpu = {"nvidia.com/gpu": "2"} if gpus else {}
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi"} | gpu
    command = ["tune-interpreg", "run", "mnist", "--cluster", "auto", "--store", "/shared/mnist", *asked]
    assert shlex.split(manifest["spec"]["entrypoint"]) == command


def test_the_image_that_the_rayjob_shows_copies_the_sources_for_its_user_alone() -> None:
    lines = [line.removeprefix("#").strip() for line in printed("kuberay", "mnist", "--image", "a").splitlines()]
    assert [line for line in lines if line.startswith("COPY")] == ["COPY --chown=ray . tune-interpreg"]
    left_out = (Path(__file__).parents[2] / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "build", "dist", "runs"} <= set(left_out)


def test_a_rayjob_brings_a_study_file_along() -> None:
    given = ("--set", 'seeds=["0"]', "--claim", "mine", "--mount", "/mnt/nfs", "--data-root", "/mnt/nfs/data")
    text = printed("kuberay", "My study's.yaml", "--image", "me/study:1", *given[2:])
    manifest, files = yaml.safe_load_all(text)
    jsonschema.validate(manifest, RAYJOB)
    study = "my-study-s.yaml"
    assert files == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "my-study-s"}, "data": {study: TINY}}
    words = shlex.split(manifest["spec"]["entrypoint"])
    assert words[2] == f"/study/{study}"
    assert words[words.index("--store") + 1] == "/mnt/nfs/My study's"
    for group in (
        manifest["spec"]["rayClusterSpec"]["headGroupSpec"],
        *manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"],
    ):
        pod = group["template"]["spec"]
        mounts = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/mnt/nfs", "study": "/study"}
        volumes = {one.pop("name"): one for one in pod["volumes"]}
        assert volumes["shared"] == {"persistentVolumeClaim": {"claimName": "mine"}}
        assert volumes["study"] == {"configMap": {"name": "my-study-s"}}


# -------------------------------------------------------------------------- ray up
def checked(text: str) -> dict[str, Any]:
    """The file as `ray up` reads it, held against Ray's own schema."""
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def test_the_cluster_of_ones_own_hosts_is_as_ray_up_wants_it() -> None:
    text = printed("ray-cluster", "My study's.yaml", "--hosts", "n1,n2,n3", "--user", "me", "--store", "/nfs/mine")
    config = checked(text)
    assert config["provider"] == {"type": "local", "head_ip": "n1", "worker_ips": ["n2", "n3"]}
    assert (config["max_workers"], config["auth"]["ssh_user"]) == (2, "me")
    study = str(Path.cwd() / "My study's.yaml")
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token", study: study}
    environment = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; export RAY_AUTH_MODE=token; "
    for stop, start in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert stop == f"{environment}ray stop"  # each in a shell of its own
        assert f"{environment}ray start " in start
    assert "ssh without a password from here to all machines, and from the head to the others" in text
    (line,) = re.findall(r"^#   (ray exec FILE .*)$", text, flags=re.M)
    *_, run = shlex.split(line)
    assert shlex.split(run.rpartition("; ")[2])[:3] == ["tune-interpreg", "run", study]


def test_the_cluster_of_ec2_is_as_ray_up_wants_it() -> None:
    given = (
        "--nodes",
        "4",
        "--gpus-per-node",
        "1",
        *GPU,
        "--image",
        "me/study:1",
        "--nfs",
        "fs-1:/",
        "--store",
        "/efs/mnist",
    )
    config = checked(printed("ray-cluster", "mnist", *given))
    assert config["available_node_types"]["worker"]["node_config"] == {"InstanceType": "g5.2xlarge"}
    assert config["available_node_types"]["worker"]["min_workers"] == config["max_workers"] == 3
    assert config["docker"]["image"] == "me/study:1"
    assert "-v /efs:/efs" in config["docker"]["run_options"]
    assert "mount -t nfs fs-1:/ /efs" in config["initialization_commands"][1]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


# --------------------------------------------------------------------------- errors
@pytest.mark.parametrize("kind", ["slurm", "kuberay"])
def test_a_study_that_cannot_run_is_refused_before_it_is_launched(kind: str, folder: Path) -> None:
    (folder / "wrong.yaml").write_text("data: digit\narms: {a: {method: standard}}\n")
    image = ("--image", "a") if kind == "kuberay" else ()
    assert "error: wrong.yaml:1: data: unknown dataset" in refused(kind, "wrong.yaml", *image)
    said = refused(kind, "mnist", "--set", "resources.gpus=0.5", *image)
    assert "a trial asks for 0.5 GPUs, a node has 0: raise --gpus-per-node, or lower resources.gpus" in said
    said = refused(kind, "mnist", "--set", "resources.cpus=9", "--gpus-per-node", "1", *image)
    assert "a trial asks for 9 CPUs, a node has 8: raise --cpus-per-node, or lower resources.cpus; a node" in said
    assert "a node has 1 GPUs, trials ask for none: add --set resources.gpus=1, or drop --gpus-per-node" in said


EC2 = ("ray-cluster", "mnist", "--image", "a", "--nfs", "b:/")
HOSTS = ("ray-cluster", "mnist", "--hosts", "a,b")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (GPU, "a trial asks for 1 GPUs, a node has 0: raise --gpus-per-node"),
        (("--gpus-per-node", "1"), "a node has 1 GPUs, trials ask for none: add --set resources.gpus=1"),
        ((*GPU, "--gpus-per-node", "0", "--instance-type", "m"), "a trial asks for 1 GPUs, a node has 0"),
    ],
)
def test_instances_of_ec2_have_the_gpus_that_trials_use(options: tuple[str, ...], said: str) -> None:
    assert said in refused(*EC2, *options)


def test_a_type_that_is_named_and_hosts_of_ones_own_may_have_gpus() -> None:
    assert "InstanceType: p9.large" in printed(*EC2, *GPU, "--instance-type", "p9.large")
    assert "worker_ips: [b]" in printed(*HOSTS, *GPU)


@pytest.mark.parametrize(
    "option", [("--nodes", "2"), ("--gpus-per-node", "2"), ("--instance-type", "m"), ("--region", "r")]
)
def test_what_ec2_alone_takes_is_refused_beside_hosts(option: tuple[str, str]) -> None:
    assert f"{option[0]} tell what to rent of EC2; drop them, or --hosts" in refused(*HOSTS, *option)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("slurm", "mnist", "--store", "runs/a"),
            "takes an absolute path without .., as the cluster has it, got 'runs/a'",
        ),
        (("slurm", "mnist", "--store", "/a/../b/c"), "takes an absolute path without .., as the cluster has it, got"),
        (("slurm", "mnist", "--store", "/top"), "takes a folder in one that nodes share, such as /shared/top, got"),
        ((*HOSTS, "--nfs", "h:/e", "--store", "/top"), "takes a folder in one that nodes share"),
        (("kuberay", "mnist", "--image", "a", "--store", "/shared/../b"), "takes an absolute path without .."),
        (("kuberay", "mnist", "--image", "a", "--mount", "/b/c", "--store", "/b/c"), "takes a path below --mount"),
        (("slurm", "mnist", "--time", "8h"), "takes a time as Slurm writes it, 8:00:00 or 1-0, got '8h'"),
        (("slurm", "mnist", "--partition", "a;b"), "takes letters, digits and"),
        (("slurm", "mnist", "--nodes", "0"), "--nodes"),
        (("kuberay", "mnist"), "--image"),
        (("kuberay", "mnist", "--image", "a", "--store", "/b/c"), "takes a path below --mount, /shared, got '/b/c'"),
        (("ray-cluster", "mnist"), "EC2's machines share nothing: give --image and --nfs, or --hosts"),
        ((*EC2, "--gpus-per-node", "3"), "no type with 3 GPUs is known"),
    ],
)
def test_what_a_cluster_would_not_take_is_refused(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(*arguments)


@pytest.mark.parametrize("kind", ["slurm", "kuberay", "ray-cluster"])
def test_help_shows_an_example_that_works(kind: str) -> None:
    text = re.sub(r"[\s│]+", " ", told(kind, "--help").stdout)
    example = text.partition(f"Example: tune-interpreg launch {kind} ")[2].partition(" ╭")[0]
    arguments = shlex.split(re.split(r" [|>] ", example)[0])
    assert printed(kind, *arguments)


def test_every_shipped_study_is_launched_by_its_name() -> None:
    for name in study_file.shipped():
        manifest = yaml.safe_load(printed("kuberay", name, "--image", "a"))
        assert json.dumps(manifest["spec"]["entrypoint"]).startswith(f'"tune-interpreg run {name} --cluster auto ')

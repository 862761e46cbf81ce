"""Check the files that `launch` prints for Slurm, KubeRay and `ray up`."""

import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.cli import call, output, refusal
from helpers.kuberay import RAYJOB
from helpers.skypilot import TASK
from typer.main import get_command

from tune_interpreg.cli import app
from tune_interpreg.stopping import Stop
from tune_interpreg.trackers import tracker

TINY = """\
data: {name: digits, train_limit: 160}
arms:
  standard: {method: standard}
"""

#: Nodes with GPUs are refused for trials that use none.
GPU = ("--set", "resources.gpus=1")


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


def test_rayjob_waits_in_a_queue_of_kueue_and_carries_labels() -> None:
    labels = {"team": "vision", "example.org/cost-center": "42", "empty": ""}
    pairs = ",".join(f"{key}={value}" for key, value in labels.items())
    manifest = yaml.safe_load(printed("kuberay", "mnist", "--image", "a", "--queue", "night", "--labels", pairs))
    jsonschema.validate(manifest, RAYJOB)
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "night"} | labels
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True  # Kueue admits no other RayJob
    cluster = manifest["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == labels
    assert "labels" not in printed("kuberay", "mnist", "--image", "a")


# ------------------------------------------------------------------------- skypilot
SKYPILOT = ("skypilot", "mnist", "--image", "me/study:1", "--mirror", "s3://mine/mnist")


def test_task_follows_skypilots_schema_and_keeps_its_results_in_the_bucket(folder: Path) -> None:
    options = ("--gpus-per-node", "2", "--gpu", "A10G", "--infra", "aws/us-east-1", *GPU, "--data-root", "/data")
    task = yaml.safe_load(printed("skypilot", "My study's.yaml", *SKYPILOT[2:], *options))
    jsonschema.validate(task, TASK)
    assert task["resources"].items() >= {"infra": "aws/us-east-1", "accelerators": "A10G:2", "cpus": "8+"}.items()
    study = "/study/my-study-s.yaml"
    assert task["file_mounts"] == {study: str(folder / "My study's.yaml")}
    words = shlex.split(task["run"])
    place = ["--cluster", "local", "--store", "/tmp/tune-interpreg/My study's", "--mirror", "s3://mine/mnist"]
    assert words == ["tune-interpreg", "run", study, *place, "--data-root", "/data", *GPU]


def test_a_preempted_spot_machine_is_replaced_and_resumes() -> None:
    task = yaml.safe_load(printed(*SKYPILOT))
    jsonschema.validate(task, TASK)
    assert task["resources"]["use_spot"] is True
    stop = Stop()
    stop.request(signal.SIGTERM)
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [stop.code]}
    assert not {"accelerators", "infra"} & task["resources"].keys()
    assert "file_mounts" not in task


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
        (("slurm", "mnist", "--track", "mflow"), 'unknown tracker "mflow"; there are: mlflow, wandb'),
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
        ((*KUBERAY, "--queue", "Night"), "lower-case letters, digits and hyphens, got 'Night'"),
        ((*KUBERAY, "--labels", "team"), "KEY=VALUE,KEY=VALUE as Kubernetes does, such as team=vision, got 'team'"),
        ((*KUBERAY, "--labels", "a=-b"), "'a=-b'"),
        (SKYPILOT[:4], "--mirror"),
        ((*SKYPILOT[:4], "--mirror", "mine"), "s3://BUCKET/FOLDER, or gs://, az:// or abfs://, got 'mine'"),
        ((*SKYPILOT[:4], "--mirror", "s3://mine"), "s3://BUCKET/FOLDER"),
        ((*SKYPILOT, "--set", "resources.judge.cpus=9"), "or lower resources.judge.cpus"),
    ],
)
def test_bad_options_are_refused_with_their_remedy(arguments: tuple[str, ...], named: str) -> None:
    assert named in refused(*arguments)


@pytest.mark.parametrize("arguments", [("slurm", "mnist"), KUBERAY, HOSTS, SKYPILOT])
def test_run_takes_the_printed_command(arguments: tuple[str, ...]) -> None:
    text = printed(*arguments, "--data-root", "/data", "--track", "mlflow", "--track", "wandb")
    (command,) = re.findall(r"tune-interpreg (run mnist [^'\"&]*)", text)
    parsed = get_command(app).commands["run"].make_context("run", shlex.split(command)[1:])  # type: ignore[attr-defined]
    assert (parsed.params["study"], str(parsed.params["data_root"])) == ("mnist", "/data")
    assert parsed.params["track"] == ["mlflow", "wandb"]
    assert parsed.params.get("mirror") == (SKYPILOT[-1] if arguments == SKYPILOT else None)


def test_a_tracker_must_be_installed_here_unless_an_image_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_is_installed", lambda package: False)
    assert "pip install 'tune-interpreg[mlflow]'" in refused("slurm", "mnist", "--track", "mlflow")
    assert "--track mlflow" in printed(*KUBERAY, "--track", "mlflow")


@pytest.mark.parametrize("kind", ["slurm", "kuberay", "ray-cluster", "skypilot"])
def test_help_shows_an_example_that_works(kind: str) -> None:
    text = re.sub(r"[\s│]+", " ", call("launch", kind, "--help").stdout)
    example = text.partition(f"Example: tune-interpreg launch {kind} ")[2].partition(" ╭")[0]
    assert printed(kind, *shlex.split(re.split(r" [|>] ", example)[0]))

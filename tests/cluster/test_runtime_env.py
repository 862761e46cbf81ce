"""The modules that are sent to other machines can be imported there, and their entry points are found."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from tune_interpreg.cluster import runtime_env
from tune_interpreg.study.config import Study

CODE = """\
import json
from importlib.metadata import entry_points, version
names = [point.name for point in entry_points(group="tune_interpreg.methods") if point.load()]
import trainables
print(json.dumps([version("tune-interpreg"), trainables.__file__, names]))
"""


def test_copies_can_be_imported_and_their_entry_points_are_found(tmp_path: Path) -> None:
    """In a Python without installed packages except those that the copies import."""
    study = Study.model_validate({"arms": {"a": {"method": "standard"}, "b": {"method": "standard + jacobian"}}})
    packages = runtime_env.study_packages(study)
    assert packages == ["tune-interpreg"]
    folders = []
    for number, module in enumerate(runtime_env.collect_modules(packages, tmp_path / "scratch")):
        folders.append(str(tmp_path / "copies" / str(number)))
        target = Path(folders[-1], Path(module).name)
        shutil.copytree(module, target, ignore=shutil.ignore_patterns(*runtime_env.EXCLUDED))
    assert not list(tmp_path.rglob("*.pyc"))
    path = [*folders, *(entry for entry in sys.path if entry.endswith("site-packages"))]
    code = f"import sys; sys.path[:0] = {path}\n{CODE}"
    ran = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    version, file, names = json.loads(ran.stdout)
    assert version
    assert file.startswith(str(tmp_path / "copies"))
    assert set(names) == {point.name for point in entry_points(group="tune_interpreg.methods")}

"""The fields of a task that are used, as a JSON schema, from ``sky.utils.schemas`` of SkyPilot 0.14.1.

The package itself needs another click than this project. There, ``resources`` are checked apart from the task.
"""

from typing import Any

from helpers.kuberay import TEXT, TEXTS, fields

RESOURCES = fields(
    infra={"type": "string", "pattern": r"^[\w*-]+(/[\w*-]+){0,2}$"},
    cpus={"type": ["string", "number"]},
    accelerators=TEXT,
    use_spot={"type": "boolean"},
    image_id=TEXT,
    job_recovery=fields(
        recover_on_exit_codes={
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
    ),
)
TASK: dict[str, Any] = fields("name", "resources", "run", name=TEXT, resources=RESOURCES, file_mounts=TEXTS, run=TEXT)

"""The fields of a RayJob (ray.io/v1) that are used, as a JSON schema, from the documentation of KubeRay 1.5.1."""

from typing import Any

Schema = dict[str, Any]


def fields(*required: str, **properties: Schema) -> Schema:
    """Return the schema of an object that has no other fields than these."""
    return {"type": "object", "required": [*required], "additionalProperties": False, "properties": properties}


def name(length: int) -> Schema:
    return {"type": "string", "pattern": f"^[a-z0-9]([-a-z0-9]{{0,{length - 1}}}[a-z0-9])?$"}


TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0}
CONTAINER = fields(
    "name",
    "image",
    name=name(63),
    image=TEXT,
    resources=fields(limits=TEXTS, requests=TEXTS),
    volumeMounts={"type": "array", "items": fields("name", "mountPath", name=TEXT, mountPath=TEXT)},
)
LABELS: Schema = {
    "type": "object",
    "propertyNames": {"pattern": r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?$"},
    "additionalProperties": {"type": "string", "pattern": r"^([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?$"},
}
POD = fields(
    "spec",
    metadata=fields("labels", labels=LABELS),
    spec=fields(
        "containers",
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        volumes={"type": "array", "items": {"type": "object", "required": ["name"], "maxProperties": 2}},
    ),
)
WORKERS = fields(
    *("groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
CLUSTER = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    headGroupSpec=fields("rayStartParams", "template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
RAYJOB = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(name=name(46), labels=LABELS),
    spec=fields(
        entrypoint=TEXT,
        shutdownAfterJobFinishes={"type": "boolean"},
        backoffLimit=COUNT,
        rayClusterSpec=CLUSTER,
    ),
)

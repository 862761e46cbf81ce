"""The checkpoint of an epoch: a safetensors file. Its metadata hold the progress and a checksum of everything."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tune_interpreg.store.files import CHECKSUM, Damaged


def save(path: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write tensors and progress (plain JSON) to ``path``."""
    text = json.dumps(progress)
    # safetensors takes no other memory format, and no tensors that share memory
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"progress": text, CHECKSUM: _checksum(copies, text)})


def load(path: Path, device: str) -> tuple[dict[str, Tensor], Any]:
    """Return tensors, on ``device``, and progress. Raise ``Damaged`` if they are not what was saved."""
    try:
        with safe_open(path, framework="pt", device=device) as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError) as error:
        raise Damaged(path, f"is damaged: it is not a checkpoint ({error})") from None
    if metadata.get(CHECKSUM) != _checksum(tensors, metadata.get("progress", "")):
        raise Damaged(path, "is damaged: it has another checksum than its own")
    return tensors, json.loads(metadata["progress"])


def _checksum(tensors: Mapping[str, Tensor], progress: str) -> str:
    """Return the checksum of the progress and of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""The state of a network: its tensors by name, on a device, in a file.

`build` may convert the module that a builder returned. It stays reachable, and files have its names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from tune_interpreg.study.config import Model

#: Attribute of a converted network that holds the builder's module; it shares all tensors with the network.
SOURCE = "source"

#: Key of the network's section in the metadata of a file. No tensor has a space in its name.
SECTION = "model section"


def set_source(network: nn.Module, source: nn.Module) -> None:
    """Remember the module that `network` was converted from, not as a part of it."""
    vars(network)[SOURCE] = source


def source_of(network: nn.Module) -> nn.Module:
    """Return the module that `network` was converted from, or the network itself."""
    source: nn.Module = vars(network).get(SOURCE, network)
    return source


def named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters, then all buffers, also those outside `state_dict`. A tied tensor has one name.

    The names are those of the builder's module.
    """
    source = source_of(network)
    yield from source.named_parameters()
    yield from source.named_buffers()


def move(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Move the network to `device`, also tensors that are plain attributes, alone or in a list; return the network."""
    for module in network.to(device).modules():
        for name, value in plain_attributes(module):
            vars(module)[name] = _moved(value, device)
    return network


def plain_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes that the module's class or its user gave it, without parameters, buffers and modules."""
    return [(name, value) for name, value in vars(module).items() if name not in _OF_ALL_MODULES]


_OF_ALL_MODULES = {*vars(nn.Module()), SOURCE}


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple) and any(isinstance(item, Tensor) for item in value):
        return type(value)(_moved(item, device) for item in value)
    if type(value) is dict and any(isinstance(item, Tensor) for item in value.values()):
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def save(network: nn.Module, path: Path, model: Model | None = None) -> None:
    """Write `state_dict` to a safetensors file, with the names of the builder's module. A tied tensor is written once.

    Its other names are in the file's metadata, and so is ``model``, the section that the network was built from.
    ``safetensors.torch.load_model`` reads the file.

    Raises:
        TypeError: an entry is no tensor.
        RuntimeError: tensors overlap in memory without being equal.
    """
    source = source_of(network)
    others = [name for name, value in source.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise TypeError(f"state_dict() holds {', '.join(others)}, which no tensors are; keep tensors in it only")
    save_model(source, str(path), {SECTION: model.model_dump_json()} if model else None)


def read_section(path: Path) -> Model | None:
    """Return the section that the network in a file was built from; None in a file of an earlier version.

    Raises:
        OSError, SafetensorError: the file cannot be read.
    """
    with safe_open(path, framework="pt") as opened:
        section = (opened.metadata() or {}).get(SECTION)
    return Model.model_validate_json(section) if section else None


def load(network: nn.Module, path: Path) -> None:
    """Copy the tensors of a file that `save` wrote into the network; tied ones stay tied.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        RuntimeError: it does not fit the network.
    """
    load_model(source_of(network), path, device=str(next(network.parameters()).device))

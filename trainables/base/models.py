"""Trained models that a job reads: the teacher of a training, and the models that maps and judgments are made of."""

from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from trainables.base.assignment import Assignment
from tune_interpreg.data.dataset import Dataset
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.store.files import Damaged
from tune_interpreg.study.config import Model


def load_model(network: Model, seed: int, file: Path, data: Dataset, device: str) -> nn.Module:
    """Return a trained model on the device, in eval mode.

    Args:
        network: that of a file of an earlier version; others name their own.
        seed: of its training, because tensors outside of its file may depend on it.
        file: its weights.

    Raises:
        Damaged: the file is missing, or holds no such model.
    """
    try:
        model = build(weights.read_section(file) or network, data.shape, data.classes, seed, device)
        weights.load(model, file)
    except (FileNotFoundError, SafetensorError) as error:
        raise Damaged(file, f"is damaged: no model can be read from it ({error})") from None
    return model.eval()


def load_teacher(assignment: Assignment, data: Dataset) -> nn.Module:
    """Return the network that teaches a training, in eval mode and with frozen parameters.

    Raises:
        ValueError: the training has no teacher.
        Damaged: its file is missing, or holds no such model.
    """
    recipe = assignment.job.recipe
    if assignment.teacher is None:
        raise ValueError(f"{recipe.method} needs a teacher, but the arm {assignment.job.arm} names none; name one")
    network, seed = (recipe.teacher.model, recipe.teacher.seed) if recipe.teacher else (recipe.model, 0)
    return load_model(network, seed, assignment.teacher, data, assignment.device).requires_grad_(False)

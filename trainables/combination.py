"""Train several methods at once: the cross-entropy of the one that attacks the images, and the penalties of all."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from itertools import combinations
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.training.trainer import Batch

Method = type[MethodTrainable]

#: A combination has each of these traits that one of its methods has.
TRAITS = ("attacks_images", "needs_targets", "signed_targets", "needs_teacher")


class CombinedTrainable(MethodTrainable):
    """CE + Σ penalties at the clean images, of one forward; the CE is at x_adv if one of the methods attacks x.

    A parameter ``ce_weight`` of a method scales the CE wherever it is taken.
    """

    methods: ClassVar[Sequence[Method]] = ()

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for method in self.methods:
            # The cross-entropy's forward alone changes running statistics; with an attack, that at x_adv.
            other = self.attacks_images and not method.attacks_images
            with constant_statistics(model) if other else nullcontext():
                added = dict(method.terms(self, model, batch))
            if not method.attacks_images:
                added.pop("ce", None)
            if shared := ", ".join(added.keys() & terms.keys()):
                raise ValueError(f"{type(self).__name__}: two methods have a term {shared}; rename it in one of them")
            terms |= added
        if "ce" not in terms:
            terms = {"ce": F.cross_entropy(batch.linearize(model)[0], batch.y_B)} | terms
        return terms | {"ce": self.params.get("ce_weight", 1.0) * terms["ce"]}


@cache
def combine(*methods: Method) -> Method:
    """Return the method that trains all of ``methods`` at once, with the parameters of all of them.

    A parameter that several of them have applies to each. The same methods give the same class.

    Raises:
        ValueError: a method occurs twice, several attack the images or need targets, or different parameters share a
            name; names all problems.
    """
    names = [_short_name(method) for method in methods]
    if problems := "; ".join(_find_problems(methods)):
        raise ValueError(f"{' + '.join(names)} is no combination: {problems}; drop one, or give each an arm of its own")
    attributes: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"{' + '.join(names)}: see CombinedTrainable.",
        # Not inherited: a subclass of a method without a penalty may add one.
        "methods": tuple(method for method in methods if vars(method).get("has_penalty", True)),
        "parameters": {name: parameter for method in methods for name, parameter in method.parameters.items()},
    }
    attributes |= {trait: any(getattr(method, trait) for method in methods) for trait in TRAITS}
    return type("".join(names) + "Trainable", (CombinedTrainable, *methods), attributes)


def _find_problems(methods: Sequence[Method]) -> list[str]:
    problems = []
    for first, second in combinations(methods, 2):
        names = f"{_short_name(first)} and {_short_name(second)}"
        if issubclass(first, second) or issubclass(second, first):
            problems.append(f"{names} are of one kind")
        problems += [
            f"{key} has different meanings in {names}"
            for key in first.parameters.keys() & second.parameters.keys()
            if first.parameters[key] != second.parameters[key]
        ]
    for trait, action in (("attacks_images", "attacks its images"), ("needs_targets", "needs targets")):
        names = " and ".join(_short_name(method) for method in methods if getattr(method, trait))
        if " and " in names:
            problems.append(f"at most one method {action}, here {names} do")
    return problems


def _short_name(method: Method) -> str:
    return method.__name__.removesuffix("Trainable")

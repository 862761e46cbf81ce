"""Several methods as one: the cross-entropy of the one that moves the images, and the penalties of all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.base.trainable import MethodTrainable
from trainables.standard import StandardTrainable
from tune_interpreg.training.trainer import Batch

Method = type[MethodTrainable]

#: What a combination is as soon as one of its methods is.
TRAITS = ("moves", "needs_targets", "signed_targets")


class CombinedTrainable(MethodTrainable):
    """CE + Σ penalties at the clean images, of one forward; the CE at x_adv where one of the methods moves x."""

    methods: ClassVar[Sequence[Method]] = ()

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for method in self.methods:
            own = dict(method.terms(self, model, batch))
            if not method.moves:
                own.pop("ce", None)
            if twice := ", ".join(own.keys() & found.keys()):
                raise ValueError(f"{type(self).__name__}: two methods have a term {twice}; rename it in one of them")
            found |= own
        return found if "ce" in found else {"ce": F.cross_entropy(batch.linearize(model)[0], batch.y_B)} | found


def combined(*methods: Method) -> Method:
    """Return the method that trains all of ``methods`` at once, with the parameters of all of them.

    A parameter that several of them share holds for each. The same methods give the same class.

    Raises:
        ValueError: a method, or a kind of it, stands twice; several move the images, or need targets; different
            parameters share a name. All problems are named.
    """
    if methods not in _KNOWN:
        together = " + ".join(map(_name, methods))
        if problems := "; ".join(_problems(methods)):
            raise ValueError(f"{together} is no combination: {problems}; drop one, or give each an arm of its own")
        _KNOWN[methods] = _combination(methods)
    return _KNOWN[methods]


_KNOWN: dict[tuple[Method, ...], Method] = {}


def _combination(methods: Sequence[Method]) -> Method:
    own = {
        "__module__": __name__,
        "__doc__": f"{' + '.join(map(_name, methods))}: see CombinedTrainable.",
        # Standard training has no term but the cross-entropy, which every combination has.
        "methods": tuple(method for method in methods if method is not StandardTrainable),
        "parameters": {name: one for method in methods for name, one in method.parameters.items()},
        **{trait: any(getattr(method, trait) for method in methods) for trait in TRAITS},
    }
    return type("".join(map(_name, methods)) + "Trainable", (CombinedTrainable, *methods), own)


def _problems(methods: Sequence[Method]) -> Iterator[str]:
    for one, other in combinations(methods, 2):
        if issubclass(one, other) or issubclass(other, one):
            yield f"{_name(one)} stands twice" if one is other else f"{_name(one)} and {_name(other)} are of one kind"
        for name in one.parameters.keys() & other.parameters.keys():
            if one.parameters[name] != other.parameters[name]:
                yield f"{name} is one thing in {_name(one)} and another in {_name(other)}"
    if len(moving := [_name(method) for method in methods if method.moves]) > 1:
        yield f"at most one method attacks its images, here {' and '.join(moving)} do"
    if len(guided := [_name(method) for method in methods if method.needs_targets]) > 1:
        yield f"at most one method needs targets, here {' and '.join(guided)} do"


def _name(method: Method) -> str:
    return method.__name__.removesuffix("Trainable")

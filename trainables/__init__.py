"""One Trainable a training method: each also works alone under a plain ``ray.tune.Tuner``."""

from trainables.adversarial import AdversarialTrainable
from trainables.base import MethodTrainable
from trainables.interpretation import InterpretationTrainable
from trainables.jacobian import JacobianTrainable
from trainables.standard import StandardTrainable
from trainables.targets import TargetsTrainable

__all__ = [
    "AdversarialTrainable",
    "InterpretationTrainable",
    "JacobianTrainable",
    "MethodTrainable",
    "StandardTrainable",
    "TargetsTrainable",
]

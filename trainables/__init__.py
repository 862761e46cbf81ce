"""One Trainable a training method: each also works alone under a plain ``ray.tune.Tuner``."""

from trainables.adversarial import AdversarialTrainable
from trainables.base import MethodTrainable
from trainables.combination import combined
from trainables.cosine import CosineTrainable
from trainables.fast_adversarial import FastAdversarialTrainable
from trainables.input_gradient import InputGradientTrainable
from trainables.interpretation import InterpretationTrainable
from trainables.jacobian import JacobianTrainable
from trainables.jacobian_projections import JacobianProjectionsTrainable
from trainables.standard import StandardTrainable
from trainables.targets import TargetsTrainable

__all__ = [
    "AdversarialTrainable",
    "CosineTrainable",
    "FastAdversarialTrainable",
    "InputGradientTrainable",
    "InterpretationTrainable",
    "JacobianProjectionsTrainable",
    "JacobianTrainable",
    "MethodTrainable",
    "StandardTrainable",
    "TargetsTrainable",
    "combined",
]

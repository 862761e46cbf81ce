"""Training methods, one Trainable each. Each also runs under a plain ``ray.tune.Tuner``."""

from trainables.adversarial import AdversarialTrainable
from trainables.aligned import AlignedTrainable
from trainables.base.trainable import MethodTrainable
from trainables.combination import combine
from trainables.cosine import CosineTrainable
from trainables.curvature import CurvatureTrainable
from trainables.distill import DistillTrainable
from trainables.fast_adversarial import FastAdversarialTrainable
from trainables.gaussian import GaussianTrainable
from trainables.gradient_align import GradientAlignTrainable
from trainables.gradient_match import GradientMatchTrainable
from trainables.input_gradient import InputGradientTrainable
from trainables.interpretation import InterpretationTrainable
from trainables.jacobian import JacobianTrainable
from trainables.jacobian_projections import JacobianProjectionsTrainable
from trainables.mart import MartTrainable
from trainables.standard import StandardTrainable
from trainables.trades import TradesTrainable
from tune_interpreg.gradients import penalties
from tune_interpreg.networks.chain import Residual
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch

__all__ = [
    "AdversarialTrainable",
    "AlignedTrainable",
    "Batch",
    "CosineTrainable",
    "CurvatureTrainable",
    "DistillTrainable",
    "FastAdversarialTrainable",
    "GaussianTrainable",
    "GradientAlignTrainable",
    "GradientMatchTrainable",
    "InputGradientTrainable",
    "InterpretationTrainable",
    "JacobianProjectionsTrainable",
    "JacobianTrainable",
    "MartTrainable",
    "MethodTrainable",
    "Parameter",
    "Residual",
    "StandardTrainable",
    "TradesTrainable",
    "combine",
    "constant_statistics",
    "penalties",
]

"""The former name of `chain`, until all rooms use the new one."""

from tune_interpreg.networks.chain import Chain as PiecewiseLinear

__all__ = ["PiecewiseLinear"]

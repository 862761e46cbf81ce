"""An Optuna sampler that finds the strength at which a loss equals another arm's."""

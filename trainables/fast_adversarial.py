"""Adversarial training in one step from a random start (Wong, Rice and Kolter, 2020), in the study's norm."""

from trainables.adversarial import AdversarialTrainable
from tune_interpreg.study.config import Attack
from tune_interpreg.study.parameters import Parameter


class FastAdversarialTrainable(AdversarialTrainable):
    """CE(f(x_adv), y), x_adv = Π(x₀ + α·ε·direction(∂CE/∂x₀)), x₀ uniform in the attack's ball around x."""

    parameters = {
        "alpha": Parameter(help="length α of the step, in radii ε of the study's attack", default=1.25, low=0),
        **AdversarialTrainable.parameters,
    }

    @property
    def attack(self) -> Attack:
        """The study's attack with one step from a start in the ball."""
        step_size = self.params["alpha"] * self.recipe.attack.eps
        return self.recipe.attack.model_copy(update={"start": "ball", "steps": 1, "step_size": step_size})

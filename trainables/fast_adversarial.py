"""Adversarial training in one step from a random start (Wong, Rice and Kolter, 2020), in the study's norm."""

from torch import Tensor, nn

from trainables.adversarial import AdversarialTrainable
from tune_interpreg.attacks import balls, pgd
from tune_interpreg.networks.modes import constant_statistics
from tune_interpreg.study.config import Attack
from tune_interpreg.study.parameters import Parameter
from tune_interpreg.training.trainer import Batch


class FastAdversarialTrainable(AdversarialTrainable):
    """CE(f(x_adv), y), x_adv = Π(x₀ + α·ε·direction(∂CE/∂x₀)), x₀ uniform in the ball of radius k·ε around x.

    k = 2, α = 1 and no projection to the attack's ball is N-FGSM (de Jorge et al., 2022, arXiv 2202.01181), which fails
    less often. Pixels stay in [0, 1].
    """

    parameters = {
        "alpha": Parameter(help="length α of the step, in radii ε of the study's attack", default=1.25, low=0),
        "noise": Parameter(help="radius k of the start's ball, in radii ε", default=1.0, low=0, implicit=True),
        "project": Parameter(
            help="project x_adv to the attack's ball, or let noise and step add up",
            default="ball",
            choices=("ball", "none"),
            implicit=True,
        ),
        **AdversarialTrainable.parameters,
    }

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        near = self.attack.model_copy(update={"eps": self.params["noise"] * self.recipe.attack.eps})
        start_BCHW = balls.draw_start(batch.x_BCHW, near, batch.noise)
        with constant_statistics(model):
            return pgd.perturb_from(model, batch.x_BCHW, batch.y_B, start_BCHW, attack=self.attack, form="plain")

    @property
    def attack(self) -> Attack:
        """One step of the study's attack, from a start in the ball. Unprojected, noise and step are its radius."""
        eps, alpha = self.recipe.attack.eps, self.params["alpha"]
        reach = 1.0 if self.params["project"] == "ball" else self.params["noise"] + alpha
        changes = {"start": "ball", "steps": 1, "step_size": alpha * eps, "eps": reach * eps}
        return self.recipe.attack.model_copy(update=changes)

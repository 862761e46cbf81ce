"""Compare the strict attack with AutoAttack, with PGD of three libraries and with itself at other scales of the logits.

    tune-interpreg run digits --store runs/digits
    python tests/benchmarks/bench_strict.py runs/digits > tests/benchmarks/strict.md

Attacks the models of a store on its test images. torchattacks and advertorch are compared if they are installed, also
in the folder of ``--peers``: ``pip install --no-deps --target FOLDER torchattacks``, and the folder ``advertorch`` of
its source distribution. Exit code 1: a goal is missed.
"""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from steps_report import describe_machine
from torch import Tensor, nn

from analysis.results.results import Results
from tune_interpreg import seeding
from tune_interpreg.attacks import autoattack, balls, judging
from tune_interpreg.data.dataset import load_dataset, load_test, to_pixels
from tune_interpreg.evaluation.honesty import Scaled
from tune_interpreg.networks import weights
from tune_interpreg.networks.build import build
from tune_interpreg.store.store import Store
from tune_interpreg.study.config import Attack, Data
from tune_interpreg.study.recipe import Recipe

SCALES = (0.01, 0.1, 10.0, 100.0)

#: Points of accuracy: the most that strict may lie above AutoAttack, above the best peer, and between two scales.
ENSEMBLE, PEER, SCALE = 1.0, 0.5, 0.5

#: The most that strict may cost, in compat attacks of as many steps.
COST = 2.5

#: Attack of a library: (model, x_BCHW, y_B, attack) → x_BCHW.
Peer = Callable[[nn.Module, Tensor, Tensor, Attack], Tensor]
#: Percentages of unbroken images by attack, and the cost as a multiple of compat.
Row = dict[str, float]
#: By norm, arm and seed.
Rows = Mapping[tuple[str, str, int], Row]


def foolbox_pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, attack: Attack) -> Tensor:
    import foolbox

    make = foolbox.attacks.L2PGD if attack.norm == "l2" else foolbox.attacks.LinfPGD
    peer = make(abs_stepsize=attack.step_length, steps=attack.steps)
    return torch.as_tensor(
        peer.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x_BCHW, y_B, epsilon=attack.eps)
    )


def torchattacks_pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, attack: Attack) -> Tensor:
    import torchattacks

    make = torchattacks.PGDL2 if attack.norm == "l2" else torchattacks.PGD
    return torch.as_tensor(make(model, eps=attack.eps, alpha=attack.step_length, steps=attack.steps)(x_BCHW, y_B))


def advertorch_pgd(model: nn.Module, x_BCHW: Tensor, y_B: Tensor, attack: Attack) -> Tensor:
    # advertorch imports this former name of PyTorch; `torch.autograd.gradcheck` itself is a function
    vars(import_module("torch.autograd.gradcheck"))["zero_gradients"] = None
    from advertorch.attacks import PGDAttack

    order = 2 if attack.norm == "l2" else math.inf
    loss = nn.CrossEntropyLoss(reduction="sum")
    peer = PGDAttack(model, loss, attack.eps, attack.steps, attack.step_length, ord=order)
    return torch.as_tensor(peer.perturb(x_BCHW, y_B))


PEERS: Mapping[str, Peer] = {
    "foolbox": foolbox_pgd,
    "torchattacks": torchattacks_pgd,
    "advertorch": advertorch_pgd,
}


def read_models(store: Store, seeds: int) -> Iterator[tuple[str, int, nn.Module, Data]]:
    """Yield arm, seed, model and data of the first seeds of each arm's repeats."""
    for arm, records in Results.from_store(store).current.repeats.items():
        for record in records:
            recipe = Recipe.model_validate(record["recipe"])
            data = load_dataset(recipe.data)
            for seed in record["seeds"]:
                if record["state"] == "done" and seed < seeds:
                    model = build(recipe.model, data.shape, data.classes, seed)
                    weights.load(model, store.model_file(record["key"], seed))
                    yield arm, seed, model.eval().requires_grad_(False), recipe.data


def attack_model(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, peers: Sequence[str], ensemble: bool) -> Row:
    start = balls.draw_start(x, attack, seeding.generator(0, "evaluation-attack"))

    def judge(form: judging.Form, scale: float = 1.0) -> float:
        scaled = model if scale == 1 else Scaled(model, scale).eval()
        return _unbroken(judging.find_broken(scaled, x, y, [start], attack=attack, form=form))

    row: Row = {"clean": _unbroken(model(x).argmax(1) != y)}
    seconds = {}
    for form in ("compat", "strict"):
        started = time.process_time()
        row[form] = judge(form)
        seconds[form] = time.process_time() - started
    row["cost"] = seconds["strict"] / seconds["compat"]
    row |= {f"strict × {scale:g}": judge("strict", scale) for scale in SCALES}
    for peer in peers:
        torch.manual_seed(0)  # of the library's start
        row[peer] = _unbroken(model(PEERS[peer](model, x, y, attack)).argmax(1) != y)
    if ensemble:
        row["AutoAttack"] = _unbroken(autoattack.perturb(model, x, y, attack=attack, seed=0, batch_size=len(x))[1])
    return row


def goals(rows: Rows, peers: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Yield whether each goal is met by all models, and the goal with the largest number."""
    strict = {model: row["strict"] for model, row in rows.items()}
    above = [strict[model] - row["AutoAttack"] for model, row in rows.items() if "AutoAttack" in row]
    if above:
        yield max(above) <= ENSEMBLE, f"at most {ENSEMBLE:g} points above AutoAttack: {max(above):.1f}"
    if peers:
        largest = max(strict[model] - min(row[peer] for peer in peers) for model, row in rows.items())
        yield largest <= PEER, f"at most {PEER:g} points above the best of {', '.join(peers)}: {largest:.1f}"
    change = max(abs(strict[model] - row[f"strict × {scale:g}"]) for model, row in rows.items() for scale in SCALES)
    yield change <= SCALE, f"at most {SCALE:g} points between scales of the logits from 0.01 to 100: {change:.1f}"
    cost = max(row["cost"] for row in rows.values())
    yield cost <= COST, f"at most {COST:g} times the processor time of compat: {cost:.2f}"


def page(rows: Rows, attacks: Mapping[str, Attack], images: int, peers: Sequence[str]) -> str:
    """Return the result as Markdown: goals, then a row per norm and arm, the mean over seeds."""
    columns = list(next(iter(rows.values())))
    columns = [name for name in columns if name not in ("cost", *(f"strict × {scale:g}" for scale in SCALES))]
    settings = "; ".join(f"{norm}: ε = {attack.eps:g}, {attack.steps} steps" for norm, attack in attacks.items())
    seeds = len({seed for _, _, seed in rows})
    lines = ["# The strict attack", "", describe_machine("torch", "foolbox", "torchattacks", "pyautoattack"), ""]
    lines += [f"- **{'PASS' if met else 'MISSED'}** {goal}" for met, goal in goals(rows, peers)]
    lines += ["", f"Unbroken images, %, of {images} test images; means over {seeds} seeds. {settings}.", ""]
    lines += [f"| norm | arm | {' | '.join(columns)} | cost |", f"|---|---|{'---:|' * (len(columns) + 1)}"]
    for norm, arm in dict.fromkeys((norm, arm) for norm, arm, _ in rows):
        group = [row for (of_norm, of_arm, _), row in rows.items() if (of_norm, of_arm) == (norm, arm)]
        means = [sum(row[name] for row in group) / len(group) for name in columns]
        cost = max(row["cost"] for row in group)
        lines.append(f"| {norm} | {arm} | {' | '.join(f'{mean:.1f}' for mean in means)} | {cost:.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.peers:
        sys.path.append(str(options.peers))
    warnings.simplefilter("ignore")  # of the libraries' imports
    peers = [peer for peer in PEERS if find_spec(peer)]
    store, rows = Store(options.store), dict[tuple[str, str, int], Row]()
    attacks = {
        norm: Attack(norm=norm, eps=eps, steps=options.steps, step_size=None)
        for norm, eps in (("l2", options.l2), ("linf", options.linf))
        if eps
    }
    for arm, seed, model, data in read_models(store, options.seeds):
        test = load_test(data).subset(options.images, "autoattack")
        x, y = to_pixels(test.x_NCHW), test.y_N
        for norm, attack in attacks.items():
            rows[norm, arm, seed] = attack_model(model, x, y, attack, peers, not options.without_autoattack)
            print(norm, arm, seed, rows[norm, arm, seed], file=sys.stderr)
    rows = dict(sorted(rows.items()))
    print(page(rows, attacks, options.images, peers), end="")
    return 0 if all(met for met, _ in goals(rows, peers)) else 1


def _unbroken(broken_N: Tensor) -> float:
    return 100 * (1 - int(broken_N.sum()) / len(broken_N))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path, help="a store with trained repeats")
    parser.add_argument("--images", type=int, default=200, help="test images, a stratified subset")
    parser.add_argument("--seeds", type=int, default=1, help="seeds below this number are attacked")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--l2", type=float, default=0.5, help="radius under l2; 0: not attacked")
    parser.add_argument("--linf", type=float, default=0.12, help="radius under linf; 0: not attacked")
    parser.add_argument("--peers", type=Path, help="folder that holds torchattacks and advertorch")
    parser.add_argument("--without-autoattack", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

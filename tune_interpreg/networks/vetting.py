"""Check before any training that a user's network can be trained, attacked, saved, loaded and repeated.

Every failure states what was seen and what to change. Shapes: B batch, C·H·W image, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from tune_interpreg import seeding
from tune_interpreg.networks import weights
from tune_interpreg.networks.layers import set_dropout_generator
from tune_interpreg.networks.linearize import linearize

#: Largest difference of equal logits or gradients, relative to the largest of the batch. Kernels for other batch sizes
#: round differently: real networks differ by 1e-6.
TOLERANCE = 1e-4

#: Scale of the random change of all weights, after which a network that starts with zeros is no longer special.
NUDGE = 0.02

STATE_REMEDY = "keep all of its state in parameters and in buffers from register_buffer"


class NetworkError(ValueError):
    """A network that cannot be trained or repeated; the message says what was seen and what to change."""


def vet(make: Callable[[], nn.Module], x_BCHW: Tensor, classes: int) -> None:
    """Check two networks that `make` builds with one seed. Changes no global generator.

    Args:
        make: returns a new network on the CPU; what its code raises passes through.
        x_BCHW: a few images, pixels in [0, 1], on the CPU; not all alike.
        classes: K.

    Raises:
        NetworkError: the first check that failed.
    """
    with seeding.seeded(0, "vetting"):
        network, twin = make(), make()
        _check_parameters(network)
        _check_repeatable(network, twin)
        before = {name: tensor.clone() for name, tensor in weights.named_tensors(twin)}
        for train in (True, False):
            _check_output(network.train(train), x_BCHW, classes)
        _check_training(network, x_BCHW)
        _nudge(network)
        for train in (True, False):
            _check_gradient(network.train(train), x_BCHW)
        _check_batch(network.eval(), x_BCHW)
        _check_adjoint(network, x_BCHW)
        changed = [name for name, tensor in weights.named_tensors(twin) if not _same(tensor, before[name])]
        if changed:
            raise NetworkError(
                f"shares {_list(changed)} among all networks that its builder returns, so that seeds would train "
                "together; build new modules in each call"
            )
        _check_file(network, twin, x_BCHW)
        _check_state(network, twin, x_BCHW)


def refuse_kind(network: object) -> None:
    """Raise NetworkError for what is no module, or contains a compiled, scripted, parallel or empty one."""
    if not isinstance(network, nn.Module):
        raise NetworkError(f"is of type {type(network).__name__}; its builder must return a torch.nn.Module")
    empty = [name for name, tensor in weights.named_tensors(network) if tensor.is_meta]
    if empty:
        raise NetworkError(f"has no values in {_list(empty)}, on the meta device; build it on the CPU")
    for module in network.modules():
        compiled = type(module).__module__.startswith("torch._dynamo")
        if compiled or getattr(module, "_compiled_call_impl", None) is not None:
            raise NetworkError(
                "is compiled: penalties need second derivatives, which compiled code lacks, and code that is compiled "
                "again while it runs rounds differently after an interruption; return the network without torch.compile"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise NetworkError(
                f"contains a {type(module).__name__}: TorchScript compiles again while it runs, and then rounds "
                "differently after an interruption; return the Python module"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise NetworkError(
                f"contains {type(module).__name__}: a trial trains on one device; return the module inside (.module)"
            )


def _run(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """Return the network's output in its current mode, with restarted random streams."""
    set_dropout_generator(network, torch.Generator().manual_seed(0))
    with seeding.seeded(0, "layers"):
        z_BK: Tensor = network(x_BCHW)
    return z_BK


def _check_parameters(network: nn.Module) -> None:
    trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    if not trainable:
        raise NetworkError("has no parameter that requires a gradient, so nothing would train; unfreeze some")
    other = [f"{name} ({weight.dtype})" for name, weight in trainable.items() if weight.dtype != torch.float32]
    if other:
        raise NetworkError(f"trains {_list(other)}, but images and updates are float32; return network.float()")
    gaps = [name for name, weight in trainable.items() if not _is_dense(weight)]
    if gaps:  # a fused optimizer walks through their memory
        raise NetworkError(f"trains {_list(gaps)}, a part of a larger tensor; use tensor.contiguous() as the parameter")
    for place, module in network.named_modules():
        for name, value in weights.plain_attributes(module):
            if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
                raise NetworkError(
                    f"does not train {f'{place}.{name}'.strip('.')}, which requires a gradient but is no parameter; "
                    "wrap it in torch.nn.Parameter"
                )


def _check_repeatable(network: nn.Module, twin: nn.Module) -> None:
    """Check that two networks of one seed are equal."""
    tensors, others = (dict(weights.named_tensors(each)) for each in (network, twin))
    names = [name for name in tensors if name not in others or not _same(tensors[name], others[name])]
    if tensors.keys() != others.keys() or names:
        raise NetworkError(
            f"is not the same for the same seed: {_list(names or [*others.keys() - tensors.keys()])} differ; draw from "
            "the global generators of torch, numpy or random without seeding them, or from generators with a fixed seed"
        )


def _check_output(network: nn.Module, x_BCHW: Tensor, classes: int) -> None:
    """Check the logits' type, and that the forward does not change the images."""
    mode, images_BCHW = "train" if network.training else "eval", x_BCHW.clone()
    with torch.no_grad():
        z_BK = _run(network, images_BCHW)
    if not torch.equal(images_BCHW, x_BCHW):
        raise NetworkError(
            f"changes the images that it is given, in {mode} mode, and with them the data set; replace operations in "
            "place on its input (x.sub_(m), x /= s, inplace=True) by new tensors (x - m)"
        )
    _check_logits(z_BK, len(x_BCHW), classes)
    if classes > 1:
        is_log = z_BK.logsumexp(-1).abs().max() < 1e-5
        if is_log or ((z_BK >= 0).all() and (z_BK.sum(-1) - 1).abs().max() < 1e-5):
            raise NetworkError(f"returns the result of a {'log_' * is_log}softmax; return the logits before it")


def _check_logits(z_BK: object, images: int, classes: int) -> None:
    expected = f"one logit per class, a float32 tensor of shape ({images}, {classes}) for {images} images"
    if not isinstance(z_BK, Tensor):
        raise NetworkError(
            f"must return {expected}; it returns {type(z_BK).__name__}; return the tensor of logits in it"
        )
    if tuple(z_BK.shape) != (images, classes) or z_BK.dtype != torch.float32:
        got = f"{z_BK.dtype} of shape {tuple(z_BK.shape)}"
        raise NetworkError(f"must return {expected}; it returns {got}; change its last layer")
    if not z_BK.isfinite().all():
        bad = int((~z_BK.isfinite()).any(-1).sum())
        raise NetworkError(f"must return finite logits; those of {bad} of {images} images are nan or infinite")


def _check_training(network: nn.Module, x_BCHW: Tensor) -> None:
    """Check that the cross-entropy has a gradient at some parameter."""
    z_BK = _run(network.train(), x_BCHW.clone())
    y_B = torch.arange(len(x_BCHW)) % z_BK.shape[1]
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    gradients: tuple[Tensor | None, ...] = (None,)
    if z_BK.requires_grad:
        loss = nn.functional.cross_entropy(z_BK, y_B)
        gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise NetworkError(
            "passes no gradient to any of its parameters; do not use no_grad, detach, .data or numpy in its forward"
        )


def _nudge(network: nn.Module) -> None:
    """Change all trained weights a little: zeros that a builder chose would hide faults of the checks that follow."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(NUDGE * torch.randn_like(weight))


def _check_gradient(network: nn.Module, x_BCHW: Tensor) -> None:
    """Check that a gradient reaches the images."""
    mode = "train" if network.training else "eval"
    leaf_BCHW = x_BCHW.clone().requires_grad_()
    with torch.enable_grad():
        z_BK = _run(network, leaf_BCHW)
    e_BK = torch.randn(z_BK.shape)
    gradient = None
    if z_BK.requires_grad:
        # Of a sum: for the argument grad_outputs, PyTorch imports its compiler, half a second in each process.
        (gradient,) = torch.autograd.grad((z_BK * e_BK).sum(), leaf_BCHW, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise NetworkError(
            f"passes no gradient to the images in {mode} mode, so that attacks and maps would be meaningless; do not "
            "use no_grad, detach, .data, numpy or integers between the images and the logits"
        )
    if not gradient.isfinite().all():
        raise NetworkError(
            f"has a gradient at the images that is nan or infinite in {mode} mode; avoid sqrt and log at 0"
        )
    if not gradient.any():
        raise NetworkError(
            f"has a gradient of 0 at all of {len(x_BCHW)} images in {mode} mode, so that attacks and maps would be "
            "meaningless; do not round, threshold or clip between the images and the logits"
        )


def _check_batch(network: nn.Module, x_BCHW: Tensor) -> None:
    """Check in eval mode that an image's logits are the same in each run and in each batch."""
    with torch.no_grad():
        before = seeding.read_global_state()
        network(x_BCHW.clone())
        if seeding.read_global_state() != before:
            raise NetworkError(
                "draws from a global random generator in eval mode, so that no evaluation could be repeated; draw in "
                "train mode only, for example F.dropout(x, p, training=self.training)"
            )
        z_BK, again_BK = _run(network, x_BCHW.clone()), _run(network, x_BCHW.clone())
        alone = [_run(network, image_CHW[None].clone()) for image_CHW in x_BCHW]
    for z_1K in alone:
        _check_logits(z_1K, 1, z_BK.shape[1])
    difference = _differ(again_BK, z_BK)
    if difference is not None:
        raise NetworkError(f"returns other logits when it runs again in eval mode: {difference}; {STATE_REMEDY}")
    difference = _differ(torch.cat(alone), z_BK)
    if difference is not None:
        raise NetworkError(
            f"returns other logits for an image alone than in a batch, in eval mode: {difference}; normalize with "
            "running statistics (track_running_stats=True) or within each image (GroupNorm, LayerNorm)"
        )


def _check_adjoint(network: nn.Module, x_BCHW: Tensor) -> None:
    """Check a network's `linearize` against its forward and autograd, in eval mode, at images without ties."""
    if not hasattr(network, "linearize"):
        return
    leaf_BCHW = torch.rand_like(x_BCHW).requires_grad_()
    z_BK, adjoint = linearize(network, leaf_BCHW.detach().clone())
    expected_BK = _run(network, leaf_BCHW)
    e_BK = torch.randn(z_BK.shape)
    gradient_BCHW, expected_BCHW = adjoint(e_BK), torch.autograd.grad((expected_BK * e_BK).sum(), leaf_BCHW)[0]
    for name, value, expected in (("logits", z_BK, expected_BK), ("Jᵀe", gradient_BCHW, expected_BCHW)):
        difference = _differ(value, expected)
        if difference is not None:
            raise NetworkError(f"has a linearize with other {name} than its forward: {difference}; correct it")


def _check_file(network: nn.Module, twin: nn.Module, x_BCHW: Tensor) -> None:
    """Check in eval mode that the twin is the network after it loads its file."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.safetensors"
        try:
            weights.save(network, file)
            weights.load(twin, file)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise NetworkError(
                f"cannot be saved and loaded ({error}); {STATE_REMEDY}, no tensor a part of another"
            ) from error
    with torch.no_grad():
        difference = _differ(_run(twin.eval(), x_BCHW.clone()), _run(network.eval(), x_BCHW.clone()))
    if difference is not None:
        raise NetworkError(
            f"returns other logits after it was saved and loaded: {difference}; {STATE_REMEDY} with persistent=True"
        )


def _check_state(network: nn.Module, twin: nn.Module, x_BCHW: Tensor) -> None:
    """Check in both modes that the twin is the network after it copies its state, as a resumed training does."""
    with torch.no_grad():
        others = dict(weights.named_tensors(network))
        for name, tensor in weights.named_tensors(twin):
            tensor.copy_(others[name])
        for train in (True, False):
            difference = _differ(*(_run(each.train(train), x_BCHW.clone()) for each in (twin, network)))
            if difference is not None:
                mode = "train" if train else "eval"
                raise NetworkError(
                    f"returns other logits in {mode} mode than a new one with the same parameters and buffers: "
                    f"{difference}; a resumed training would differ; {STATE_REMEDY}"
                )


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the tensor's memory has neither gaps nor repetitions, in any order of its dimensions."""
    if tensor.layout != torch.strided:
        return False
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() in (0, span)


def _same(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors have equal values, types and shapes; nan equals nan."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())


def _differ(first: Tensor, second: Tensor) -> str | None:
    """Return the difference in words if it is larger than TOLERANCE of the largest value, else None."""
    if first.shape != second.shape:
        return f"shape {tuple(first.shape)} instead of {tuple(second.shape)}"
    difference, largest = (first - second).abs().max().item(), second.abs().max().item()
    return None if difference <= TOLERANCE * largest + 1e-7 else f"a difference of {difference:.2g} in {largest:.2g}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")

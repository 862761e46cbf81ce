"""`tune-interpreg tensorboard`."""

from __future__ import annotations

from tune_interpreg.commands.serving import PortOption, serve
from tune_interpreg.commands.shared import StoreArgument, report_errors

#: The Custom Scalars tab, unsmoothed, with the one run that its charts are made of: no trial's name is as short.
BY_ARM = "#custom_scalars&_smoothingWeight=0&regexInput=%5E.%24"


def tensorboard(store: StoreArgument, port: PortOption = None) -> None:
    """Show the curves, images and hyperparameters of a STORE in TensorBoard, finished or not, until Ctrl-C.

    TIME SERIES and SCALARS: each trial's curves by epoch. Type an arm's name into the runs' filter.

    CUSTOM SCALARS: each arm's results by trial, of the run ".".

    HPARAMS: a line a trial, with its clean and adversarial accuracy.

    It listens on this machine alone. From another one, with --port 6006: ssh -L 6006:127.0.0.1:6006 USER@HOST

    Example:  tune-interpreg tensorboard runs/digits
    """
    from tune_interpreg.store.store import Store

    with report_errors():
        place = Store(store)
        arguments = ("--logdir", str(place.tensorboard_dir), "--window_title", place.study().name)
        serve(("-m", "tensorboard.main", *arguments), port, {"TensorBoard": "", "arm by arm": BY_ARM})

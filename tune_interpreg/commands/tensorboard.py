"""`tune-interpreg tensorboard`."""

from tune_interpreg.commands.shared import ProgramArguments, StoreArgument, hand_over, report_errors


def tensorboard(store: StoreArgument, arguments: ProgramArguments = None) -> None:
    """Start TensorBoard on a STORE, finished or not: curves, images and hyperparameters of all trials.

    TIME SERIES and SCALARS show each trial's curves by epoch. Type an arm's name into the filter of the runs.

    HPARAMS has one row per trial, with its parameters and accuracies.

    Everything after -- goes to TensorBoard itself.

    It listens on this machine only. From another machine: ssh -L 6006:localhost:6006 USER@HOST

    Example:  tune-interpreg tensorboard runs/digits -- --port 6007
    """
    from tune_interpreg.store.store import Store

    with report_errors():
        opened = Store(store)
        title = opened.load_study().name
        options = ["--logdir", str(opened.tensorboard_dir), f"--window_title={title}"]
        hand_over("tensorboard", [*options, *(arguments or ())], "tensorboard")

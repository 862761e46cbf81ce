"""Environment variables of Ray and Tune. Imports neither, because they read some of them while they are imported."""

import os
import re

#: All variables that Ray Tune reads. Tune is a part of a run, which sets what it needs itself: a user's value, meant
#: for other programs, may end the run (TUNE_RESULT_DIR) or change it (TUNE_RESULT_BUFFER_LENGTH).
TUNE_VARIABLES = (
    "RAY_AIR_FULL_TRACEBACKS",
    "RAY_AIR_LOCAL_CACHE_DIR",
    "RAY_AIR_NEW_OUTPUT",
    "RAY_CHDIR_TO_TRIAL_DIR",
    "RAY_STORAGE",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE",
    "RAY_TUNE_CALLBACKS",
    "TRAIN_COPY_DIRECTORY_CHECKPOINTS_INSTEAD_OF_MOVING",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
    "TUNE_DISABLE_AUTO_INIT",
    "TUNE_DISABLE_DATED_SUBDIR",
    "TUNE_DISABLE_SIGINT_HANDLER",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING",
    "TUNE_FORCE_TRIAL_CLEANUP_S",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S",
    "TUNE_GLOBAL_CHECKPOINT_S",
    "TUNE_MAX_LEN_IDENTIFIER",
    "TUNE_MAX_PENDING_TRIALS_PG",
    "TUNE_ONLY_STORE_CHECKPOINT_SCORE_ATTRIBUTE",
    "TUNE_ORIG_WORKING_DIR",
    "TUNE_PLACEMENT_GROUP_PREFIX",
    "TUNE_PLACEMENT_GROUP_RECON_INTERVAL",
    "TUNE_PRINT_ALL_TRIAL_ERRORS",
    "TUNE_RESTORE_RETRY_NUM",
    "TUNE_RESULT_BUFFER_LENGTH",
    "TUNE_RESULT_BUFFER_MAX_TIME_S",
    "TUNE_RESULT_BUFFER_MIN_TIME_S",
    "TUNE_RESULT_DELIM",
    "TUNE_RESULT_DIR",
    "TUNE_STATE_REFRESH_PERIOD",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S",
    "TUNE_WARN_THRESHOLD_S",
)


def drop_tune_variables() -> list[str]:
    """Remove Tune's variables from the environment of this process, and return the names of those that were set."""
    return [name for name in TUNE_VARIABLES if os.environ.pop(name, None) is not None]


def find_bad_variables() -> list[str]:
    """Return a message for each variable of Ray that must be a number and is none: importing Ray would crash."""
    ends = r"RAY_\w+_(ms|s|seconds|milliseconds|mb|bytes|size|count|length|retries|threshold|files|read)"
    values = {name: value for name, value in os.environ.items() if re.fullmatch(ends, name, re.IGNORECASE)}
    return [
        f"{name}: takes a number, got {value!r}; unset it" for name, value in values.items() if not _is_number(value)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

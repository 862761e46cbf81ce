"""The DataFrame of a study's results as a file: CSV or Parquet."""

import json
from pathlib import Path

from analysis.results.frame import tabulate
from analysis.results.results import Results
from tune_interpreg.store.files import StoreError, replace_atomically

FORMATS = ("csv", "parquet")


def write(results: Results, path: Path, to: str) -> Path:
    """Write the rows of ``tune_interpreg.results`` to a file; ``params`` becomes JSON text. Returns the path.

    to: one of ``FORMATS``. Raises ``StoreError`` if the file cannot be written.
    """
    frame = tabulate(results)
    frame["params"] = [json.dumps(params, ensure_ascii=False) for params in frame["params"]]
    try:
        with replace_atomically(path) as temporary:
            if to == "csv":
                frame.to_csv(temporary, index=False)
            else:
                frame.to_parquet(temporary, index=False)
    except OSError as error:
        remedy = "make it writable, or name another file with --output"
        raise StoreError(f"{path}: cannot be written ({error.strerror}); {remedy}") from None
    return path

"""Short guides in Markdown. ``tune-interpreg guide`` lists and prints them; a test executes each as it is written."""

from importlib import resources

#: The guides, in the order in which to read them.
NAMES = (
    *("first-study", "tables", "own-method", "own-data", "baselines", "resuming", "store", "trackers"),
    *("cluster", "gpu", "paper"),
)


def text(name: str) -> str:
    """Return a guide's Markdown; ``name`` is one of ``NAMES``."""
    return resources.files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def notebook() -> str:
    """Return the guide that is a Jupyter notebook, as JSON."""
    return resources.files(__name__).joinpath("notebook.ipynb").read_text(encoding="utf-8")


def title(name: str) -> str:
    """Return the heading of a guide."""
    return text(name).partition("\n")[0].removeprefix("# ")

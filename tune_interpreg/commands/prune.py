"""`tune-interpreg prune`."""

from typing import Annotated

import typer

from tune_interpreg.commands.shared import StoreArgument, report_errors


def prune(
    store: StoreArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Delete without a question.")] = False,
) -> None:
    """Delete what no table and no judgment of STORE needs: models of trials that were not chosen, used maps.

    Files of its mirror are deleted, too.

    It lists the files by kind first, and asks. Records stay, so a later run does not train again what is done.

    Example:  tune-interpreg prune runs/mnist
    """
    with report_errors():
        from rich.filesize import decimal

        from tune_interpreg.running.prune import find_surplus
        from tune_interpreg.store import lock
        from tune_interpreg.store.mirror import reattach
        from tune_interpreg.store.store import Store

        opened = Store(store)
        opened.load_study()
        with lock.hold(opened), reattach(opened, typer.echo) as mirror:
            surplus = find_surplus(opened)
            if not surplus:
                typer.echo("nothing to delete: every model and map is needed")
                return
            freed = sum(kind.size for kind in surplus)
            for kind in surplus:
                typer.echo(f"{len(kind.paths):>6} {kind.kind}, {decimal(kind.size)}, {kind.reason}")
            if not yes and not _ask():
                typer.echo("nothing deleted")
                return
            paths = [path for kind in surplus for path in kind.paths]
            if mirror:  # first, because a file that the mirror alone has comes back
                mirror.delete(path.relative_to(opened.path).as_posix() for path in paths)
            for path in paths:
                path.unlink(missing_ok=True)
            typer.echo(f"deleted {decimal(freed)}")


def _ask() -> bool:
    try:
        return typer.confirm("Delete them?")
    except typer.Abort:
        raise typer.BadParameter("no answer, so nothing is deleted; --yes deletes without a question") from None

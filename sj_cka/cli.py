"""The command line: run a study, redraw its report, list names, print the schema of a recipe, look at the machine."""

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sj_cka import __version__

app = typer.Typer(
    help="See what spiking neural networks learn.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Profile = Annotated[str, typer.Option(help="quick (embedded data, minutes), smoke, paper, or another of the recipe")]
RecipeFile = Annotated[Path, typer.Argument(help="a recipe, e.g. recipes/residual_ablation.yaml")]
Out = Annotated[Path | None, typer.Option(help="folder of the report; figures/<recipe> by default")]
StoreAt = Annotated[
    Path | None, typer.Option(help="folder of finished jobs; $SJ_CKA_STORE or .sj_cka/store by default")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="lay a value over the recipe, e.g. data.path=mine.npz; repeatable"),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sj_cka {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="say which this is")]


@app.callback()
def _options(version: Version = False) -> None:
    """What stands before a command; --version is done by its callback."""


@app.command()
def run(
    recipe: RecipeFile,
    profile: Profile = "quick",
    settings: Overrides = None,
    out: Out = None,
    store: StoreAt = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; by default as many as the cores hold")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show jobs, data and costs, run none")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="write epochs as they end into the report's folder tensorboard")
    ] = False,
    engine: Annotated[
        str | None, typer.Option(help="where jobs run: here, processes, or another package's; by default processes")
    ] = None,
) -> None:
    """Runs a study to its report; what is finished already is not done again."""
    with _told():
        from sj_cka import study

        if dry_run:
            typer.echo(study.outline(recipe, profile=profile, settings=settings or (), store=store))
            return
        made = study.run(
            recipe,
            profile=profile,
            settings=settings or (),
            out=out,
            store=store,
            workers=workers,
            tensorboard=tensorboard,
            engine=engine,
        )
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first
            typer.echo(made.summary())


@app.command()
def report(
    recipe: RecipeFile, profile: Profile = "quick", settings: Overrides = None, out: Out = None, store: StoreAt = None
) -> None:
    """Redraws a study's report from finished jobs; trains nothing."""
    with _told():
        from sj_cka import study

        typer.echo(study.redraw(recipe, profile=profile, settings=settings or (), out=out, store=store).summary())


@app.command()
def ledger(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="of reports, or that hold them; by default figures")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file to write, e.g. figures/README.md; else it is printed")] = None,
    recipes: Annotated[Path, typer.Option(help="folder of recipes, for what nobody has run")] = Path("recipes"),
) -> None:
    """Writes one table of every claim of every study, from the folders of their reports."""
    with _told():
        from sj_cka.disk import whole, writing
        from sj_cka.ledger import ledger as made

        found = made(folders or [Path("figures")], recipes, Path() if out is None else out.parent)
        if out is None:
            typer.echo(found.text)
        else:
            with writing(out, "the ledger", "no report was changed"), whole(out) as file:
                file.write(found.text.encode())
            typer.echo(f"{found.counted}\nledger: {out}")
        if found.damaged:
            _stop(1, "\n".join(f"error: left out: {why}" for why in found.damaged))


@app.command()
def certify(
    recipe: RecipeFile,
    network: Annotated[str, typer.Argument(help="a spiking network of the recipe, <variant>.snn")],
    profile: Profile = "quick",
    settings: Overrides = None,
    samples: Annotated[int, typer.Option(min=2, help="training samples that it is certified on")] = 16,
) -> None:
    """Checks what a network's learning rule computes: beside BPTT, against its definition, and what it hangs on."""
    with _told():
        from sj_cka.certified import certified

        found = certified(recipe, network, profile=profile, settings=settings or (), samples=samples)
        typer.echo(f"{found.certificate}\n\n{found.locality}")
        if not found.certificate.holds:
            raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Says what this machine has and what runs on it, and tests itself in a second."""
    with _told():
        from sj_cka.doctor import examine

        sound = True
        for line, good in examine():
            typer.echo(line)
            sound &= good
        if not sound:
            raise typer.Exit(1)


@app.command("list")
def list_names() -> None:
    """Lists what a recipe, or the command line, may name: every entry of every table."""
    from sj_cka.attacks import ATTACKS
    from sj_cka.cka import MEASURES
    from sj_cka.claims import MEASUREMENTS, TESTS
    from sj_cka.data import AUGMENTATIONS, DATASETS
    from sj_cka.engine import ENGINES
    from sj_cka.figures import FIGURES
    from sj_cka.jobs import KINDS
    from sj_cka.models import MODELS, NEURONS
    from sj_cka.plugins import load_plugins
    from sj_cka.recipe.attack_block import NOISE
    from sj_cka.training import LEARNING_RULES

    with _told():
        load_plugins()
    tables: dict[str, Iterable[str]] = {
        "data": DATASETS,
        "augment": AUGMENTATIONS,
        "model": MODELS,
        "neuron": NEURONS,
        "rule": LEARNING_RULES,
        "attack": [*ATTACKS, NOISE],
        "measure": MEASURES,
        "measurement": MEASUREMENTS,
        "test": TESTS,
        "job": KINDS,
        "figure": FIGURES,
        "engine": ENGINES,
    }
    for what, names in tables.items():
        typer.echo(f"{what:11} {', '.join(names)}")


@app.command()
def schema() -> None:
    """Prints the JSON schema of a recipe, for editors."""
    with _told():
        from sj_cka.recipe import schema as made

        typer.echo(json.dumps(made(), indent=2))


@contextmanager
def _told() -> Iterator[None]:
    """Ends with one message: a fault of the recipe's with exit code 2, a failed job or file with 1, Ctrl-C with 130."""
    try:
        # imported here, and in each command: plotly, scipy and scikit-learn take time that --help does not need
        import sj_cka.preload  # noqa: F401
        from sj_cka.engine import JobFailed
        from sj_cka.plugins import BrokenPlugin, UnknownName
        from sj_cka.recipe import RecipeError

        try:
            yield
        except BrokenPipeError:  # nobody reads on: no fault of the work
            raise
        except (RecipeError, UnknownName) as error:
            _stop(2, f"error: {error}", error)
        except (JobFailed, BrokenPlugin, OSError) as error:
            _stop(1, f"error: {error}", error)
    except KeyboardInterrupt as error:
        _stop(130, "interrupted; what was finished is kept, run the same command to go on", error)


def _stop(code: int, message: str, cause: BaseException | None = None) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code) from cause


def main() -> None:
    """Runs the command line, whatever is at the other ends of stdin, stdout and stderr."""
    for number in range(3):  # an open file in place of a closed stream would get what is meant for that stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # else Python would tell it once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

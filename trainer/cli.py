"""The trainer's command line: reads a configuration, calls one function, prints one answer.

Importable without torch: what needs it is imported inside the command that uses it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rollout_budget.errors import RolloutBudgetError
from trainer.config import DEFAULTS_FILE, Config, load, recipes
from trainer.errors import ConfigError, TrainerError

DEMO_FILE = DEFAULTS_FILE.with_name("demo.toml")
"""What the demo changes of the defaults, so that it fits a quarter of an hour on two cores."""

app = typer.Typer(
    name="trainer",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Train a policy on verifiable rewards, spending rollouts where they are worth most.

    * `config` prints every setting with its default and its reason, `recipes` the methods that --recipe takes.
    * `train` runs a training; services that are not given by URL run in this process.
    * `launch` first starts prior service, allocator and vLLM where they are not given by URL, then trains.
    * `demo` trains the same small task twice, budgeted and GRPO, and compares.
    * `report` compares finished or running trainings in one HTML file.
    """,
)

ConfigFile = Annotated[Path | None, typer.Argument(help="TOML file; `python -m trainer config` prints a template.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", "-r", help="A method's settings under those of the file; see `recipes`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Change one setting; may be repeated."),
]


@app.command()
def config() -> None:
    """Print every setting with its default and what it is for, as a TOML file to start from."""
    typer.echo(DEFAULTS_FILE.read_text(encoding="utf-8"), nl=False)


@app.command("recipes")
def list_recipes() -> None:
    """List the methods that --recipe takes, with what each does; `recipes/NAME.toml` beside this file has its settings."""
    for name, text in recipes().items():
        typer.echo(f"{name}\n    {text}")


@app.command()
def train(config_file: ConfigFile = None, recipe: Recipe = None, overrides: Overrides = None) -> None:
    """Train a policy; the same `run.id` goes on from its last checkpoint.

    With torchrun, every process runs this command and shares the learning:

        torchrun --nproc-per-node 2 -m trainer train my.toml
    """
    settings = read(config_file, overrides, recipe)
    from trainer.loop import run_training  # noqa: PLC0415 - needs torch

    with told():
        summary = run_training(settings)
    if summary is not None:
        typer.echo(f"report with: python -m trainer report {summary.directory}")


@app.command()
def launch(
    config_file: ConfigFile = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option("--nproc", min=1, help="Ranks of the learner on this machine.")] = 1,
    servers: Annotated[
        int | None, typer.Option(min=1, help="vLLM servers to start; by default one per GPU that the learner leaves.")
    ] = None,
) -> None:
    """Start the servers that the configuration does not name, train, and end them, also on Ctrl-C and on failure.

    With GPUs, the learner's ranks take the first ones, servers the others; with one GPU they share it. Data and logs are
    kept in the folder `servers` of run.output_dir.
    """
    settings = read(config_file, overrides, recipe)
    from trainer import launch as launching  # noqa: PLC0415 - needs torch
    from trainer.loop import run_training  # noqa: PLC0415 - needs torch
    from trainer.policy import ensure_policy  # noqa: PLC0415 - needs torch

    with told():
        directory = settings.run.output_dir / "servers"
        policy = ensure_policy(settings)
        with launching.staged(settings, directory, policy, typer.echo, ranks=processes, servers=servers) as stage:
            if processes > 1:
                arguments = [
                    *([str(config_file)] if config_file else []),
                    *([f"--recipe={recipe}"] if recipe else []),
                    *(f"--set={item}" for item in overrides or ()),
                ]
                launching.train_on(stage.config, arguments, processes)
                return
            summary = run_training(stage.config)
        if summary is not None:
            typer.echo(f"report with: python -m trainer report {summary.directory}")


@app.command()
def demo(
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 2,
    also: Annotated[list[str] | None, typer.Option(help="A further recipe to train; `recipes` lists them.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs, logs and the report.")] = Path("runs/demo"),
) -> None:
    """Train the same task, pool and number of rollouts with this project's method and with GRPO, and compare them.

    Everything is real: prior service, allocator and vLLM are started and ended. One table and one HTML report.
    """
    settings = read(config_file or DEMO_FILE, overrides)
    from rich.console import Console  # noqa: PLC0415 - with the rest, slow to import

    from trainer.demo import COMPARED, run_demo  # noqa: PLC0415 - needs torch

    with told():
        further = list(also or ())
        if unknown := [name for name in further if name not in recipes()]:
            raise ConfigError(f"--also {unknown[0]!r}: there are {', '.join(recipes())}")
        methods = dict.fromkeys((*COMPARED, *further))
        directory = out / time.strftime("%Y%m%d-%H%M%S")
        result = run_demo(settings, directory, Console(), seeds=seeds, methods=list(methods))
    if not result.agrees:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, each with its metrics.jsonl.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and the PNGs.")] = Path("runs/report"),
    reference: Annotated[
        str, typer.Option(help="Method whose final accuracy the others are timed to; by default group_mean's.")
    ] = "",
) -> None:
    """Compare runs: one HTML file that opens offline, its plots as PNGs beside it, and a table here."""
    from rich.console import Console  # noqa: PLC0415 - with matplotlib, slow to import

    from trainer.report import compare, text_table, write_report  # noqa: PLC0415 - needs matplotlib

    with told():
        comparison = compare(runs, reference=reference)
        page = write_report(comparison, out)
    Console().print(text_table(comparison))
    typer.echo(f"written: {page}")


def read(config_file: Path | None, overrides: list[str] | None, recipe: str | None = None) -> Config:
    """Return the checked configuration, or end the process with one line that says what is wrong."""
    with told():
        return load(config_file, overrides or (), recipe)


class told:  # noqa: N801 - reads as a statement: `with told():`
    """Turns errors that are meant for the user into one line and exit status 2; everything else stays a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TrainerError | RolloutBudgetError):
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(2) from None

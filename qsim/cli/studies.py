"""The commands of studies: running, resuming, looking at and exporting them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qsim.cli.app import app
from qsim.cli.typed import cores, use_devices

__all__ = ["export_study", "resume_study", "run_study", "study_status"]

FolderArgument = Annotated[Path, typer.Argument(help="The folder of a study.")]
MixedOption = Annotated[
    bool,
    typer.Option(
        "--allow-mixed", help="Go on although results there are of other versions or flags."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Evaluations side by side; by default what memory allows.", min=1),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(help="Evaluations that are stored at a time; by default about a second.", min=1),
]
DevicesOption = Annotated[
    int | None,
    typer.Option(help="CPU devices to share evaluations out over; by default all cores.", min=1),
]


@app.command("run")
def run_study(
    file: Annotated[Path, typer.Argument(help="A study file, STUDY.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="The study's folder; by default out/STUDY.")
    ] = None,
    allow_mixed: MixedOption = False,
    batch: BatchOption = None,
    chunk: ChunkOption = None,
    devices: DevicesOption = None,
) -> None:
    """Run a study: every combination of the axes in a file, each result kept as it comes.

    The same command goes on where it was stopped, and adds what the file has gained. The exit code
    is 1 if an evaluation failed, and 130 or 143 after Ctrl-C or SIGTERM.

    Examples:

      qsim run study.toml

      qsim run study.toml --out out/floats
    """
    use_devices(devices or cores())
    from qsim.report import studies
    from qsim.studies.study import read

    study, folder = read(file), out or Path("out") / file.stem
    raise typer.Exit(studies.run(study, folder, mixed=allow_mixed, how=_how(batch, chunk)))


@app.command("resume")
def resume_study(
    folder: FolderArgument,
    allow_mixed: MixedOption = False,
    batch: BatchOption = None,
    chunk: ChunkOption = None,
    devices: DevicesOption = None,
) -> None:
    """Go on with the study of a folder, and try again what failed.

    Example: qsim resume out/floats
    """
    use_devices(devices or cores())
    from qsim.report import studies

    raise typer.Exit(studies.resume(folder, mixed=allow_mixed, how=_how(batch, chunk)))


@app.command("status")
def study_status(folder: FolderArgument) -> None:
    """Show how far the study of a folder is, also while it runs.

    Example: qsim status out/floats
    """
    from qsim.report import studies

    studies.status(folder)


@app.command("export")
def export_study(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="The table: .parquet, .csv or .json; by default FOLDER/results.parquet."),
    ] = None,
) -> None:
    """Write the results of a study as a table, a row for each evaluation.

    Examples:

      qsim export out/floats

      qsim export out/floats --out floats.csv
    """
    from qsim.report import studies

    studies.write_export(folder, out or folder / "results.parquet")


def _how(batch: int | None, chunk: int | None) -> dict[str, Any]:
    given = {"batch": batch, "chunk": chunk}
    return {name: value for name, value in given.items() if value is not None}

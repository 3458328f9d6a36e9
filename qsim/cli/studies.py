"""The commands of studies: running, resuming, drawing, serving and exporting them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qsim.cli.app import app
from qsim.cli.typed import cores, use_devices

__all__ = [
    "export_study",
    "resume_study",
    "run_study",
    "serve_study",
    "study_report",
    "study_status",
]

FolderArgument = Annotated[Path, typer.Argument(help="The folder of a study.")]
MixedOption = Annotated[
    bool,
    typer.Option(
        "--allow-mixed", help="Go on although results there are of other versions or flags."
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Evaluations side by side; by default 1 on CPUs, else up to 8.", min=1),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(help="Evaluations that are stored at a time; by default about a second.", min=1),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Compile and time it only: programs, memory, how long.")
]
CoordinatorOption = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of process 0, where several processes share evaluations out."),
]
ProcessesOption = Annotated[
    int, typer.Option(help="How many processes there are, with --coordinator.", min=1)
]
ProcessOption = Annotated[
    int, typer.Option(help="Which of them this is; 0 writes the results.", min=0)
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
    plan: PlanOption = False,
    allow_mixed: MixedOption = False,
    batch: BatchOption = None,
    chunk: ChunkOption = None,
    devices: DevicesOption = None,
    coordinator: CoordinatorOption = None,
    processes: ProcessesOption = 1,
    process: ProcessOption = 0,
) -> None:
    """Run a study: every combination of the axes in a file, each result kept as it comes.

    The same command goes on where it was stopped, and adds what the file has gained. The exit code
    is 1 if an evaluation failed, and 130 or 143 after Ctrl-C or SIGTERM.

    Examples:

      qsim run study.toml

      qsim run study.toml --out out/floats --plan

      qsim run study.toml --coordinator 10.0.0.1:8476 --processes 2 --process 0
    """
    use_devices(devices or cores())
    _join(coordinator, processes, process, plan=plan)
    from qsim.studies.study import read

    folder = out or Path("out") / file.stem
    _run(read(file), folder, plan=plan, mixed=allow_mixed, batch=batch, chunk=chunk)


@app.command("resume")
def resume_study(
    folder: FolderArgument,
    plan: PlanOption = False,
    allow_mixed: MixedOption = False,
    batch: BatchOption = None,
    chunk: ChunkOption = None,
    devices: DevicesOption = None,
    coordinator: CoordinatorOption = None,
    processes: ProcessesOption = 1,
    process: ProcessOption = 0,
) -> None:
    """Go on with the study of a folder, and try again what failed.

    Example: qsim resume out/floats
    """
    use_devices(devices or cores())
    _join(coordinator, processes, process, plan=plan)
    from qsim.report.study_folder import study_of

    _run(study_of(folder), folder, plan=plan, mixed=allow_mixed, batch=batch, chunk=chunk)


@app.command("status")
def study_status(folder: FolderArgument) -> None:
    """Show how far the study of a folder is, also while it runs.

    Example: qsim status out/floats
    """
    from qsim.report import study_folder

    study_folder.status(folder)


@app.command("report")
def study_report(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page; by default FOLDER/report.html. A name that ends in .png, .svg or .pdf "
            "stands for a folder of pictures."
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Draw the study of a folder: one page that needs no network, or pictures; and in the terminal.

    Examples:

      qsim report out/floats --open

      qsim report out/floats --out figures.svg
    """
    from qsim.report import study_folder

    written = study_folder.report(folder, out or folder / "report.html")
    if open_it and written:
        typer.launch(str(written[0]))


@app.command("serve")
def serve_study(
    folder: FolderArgument,
    port: Annotated[
        int, typer.Option(help="Of this machine; by default any that is free.", min=0, max=65535)
    ] = 0,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Show the study of a folder in a browser of this machine, live while it runs, until Ctrl-C.

    Example: qsim serve out/floats --open
    """
    from qsim.report import server

    server.serve(folder, port, open=open_it)


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
    from qsim.report import study_folder

    study_folder.write_export(folder, out or folder / "results.parquet")


def _run(study: Any, folder: Path, *, plan: bool, mixed: bool, **given: int | None) -> None:
    """Run a study in a folder, or show how it would run."""
    from qsim.report import studies, study_folder

    how = {name: value for name, value in given.items() if value is not None}
    if plan:
        study_folder.plan(study, folder, how)
    else:
        raise typer.Exit(studies.run(study, folder, mixed=mixed, how=how))


def _join(coordinator: str | None, processes: int, process: int, *, plan: bool) -> None:
    """Take part in a run of several processes, if that is asked for."""
    if coordinator is not None and plan:
        raise ValueError("--plan is of one process: leave --coordinator out")
    if coordinator is not None:
        from qsim.sweeps import hosts

        hosts.join(coordinator, processes, process)
    elif processes > 1 or process > 0:
        raise ValueError("--processes and --process need --coordinator HOST:PORT, of process 0")

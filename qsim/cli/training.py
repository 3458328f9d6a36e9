"""The command ``train-sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from qsim.cli.app import app
from qsim.cli.typed import cores, formats_of, use_devices

__all__ = ["train_sweep"]

TRAINED = "e8m7,e5m10,e5m2,e4m3,e3m2,e2m1,int8,int4"


@app.command("train-sweep")
def train_sweep(
    task: Annotated[
        str, typer.Argument(help="What to train: byte_lm, digits or package.module:attribute.")
    ] = "byte_lm",
    formats: Annotated[
        str, typer.Option(help="Formats, separated by commas: specs, names or FILE.toml:NAME.")
    ] = "",
    exponents: Annotated[str, typer.Option(help="Exponent bits of more floats.")] = "",
    mantissas: Annotated[str, typer.Option(help="Mantissa bits of more floats.")] = "",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy, {} in the place of the format; may be given several times. By default "
            "'operands={} absmax': all operands of contractions, forward and backward."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of weights and batches: 0,1 or 0-3.")] = "0",
    steps: Annotated[
        int | None, typer.Option(help="Steps; by default the task's own.", min=1)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW; by default the task's own.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for training.parquet, training.png and checkpoints."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the runs that the folder has.")
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(help="CPU devices to share the runs out over; by default all cores.", min=1),
    ] = None,
) -> None:
    """Train a small model from scratch in every format, and compare the losses with float32.

    Examples:

      qsim train-sweep --out out/training

      qsim train-sweep digits --exponents 2-5 --mantissas 1-3 --seeds 0-2

      qsim train-sweep --policy 'operands={} absmax; stored weights=bfloat16 stochastic'

      qsim train-sweep my_model:task --formats e4m3,e5m2 --steps 500 --lr 0.001
    """
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"--lr is {lr}, but a learning rate is above 0")
    use_devices(devices or cores())
    from qsim.report import training
    from qsim.studies.ranges import numbers

    texts, said = list(policy or []), exponents or mantissas or formats
    alone = bool(texts) and not any("{}" in text for text in texts) and not said
    chosen = [] if alone else formats_of(exponents, mantissas, "", formats if said else TRAINED)
    training.train(
        task,
        training.named_policies(chosen, texts),
        seeds=numbers("--seeds", seeds),
        steps=steps,
        rate=lr,
        out=out,
        resume=resume,
    )

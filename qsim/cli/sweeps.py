"""The commands ``sweep`` and ``sites``: a subject in many formats, and its operations."""

from pathlib import Path
from typing import Annotated

import typer

from qsim.cli.app import app
from qsim.cli.typed import (
    BUNDLED,
    OverflowOption,
    RoundingOption,
    SubjectArgument,
    cores,
    formats_of,
    require_unsaid,
    use_devices,
)

__all__ = ["list_sites", "sweep"]


@app.command("sweep")
def sweep(
    context: typer.Context,
    subject: SubjectArgument = BUNDLED,
    exponents: Annotated[str, typer.Option(help="Exponent bits of the floats.")] = "2-8",
    mantissas: Annotated[str, typer.Option(help="Mantissa bits of the floats.")] = "1-10",
    integers: Annotated[str, typer.Option(help="Bits of the integers; '' for none.")] = "2-8",
    formats: Annotated[
        str, typer.Option(help="More formats, separated by commas: specs, names or FILE.toml:NAME.")
    ] = "",
    target: Annotated[str, typer.Option(help="weights, activations or both.")] = "both",
    rounding: RoundingOption = "ties_to_even",
    overflow: OverflowOption = "saturate",
    scale: Annotated[
        str,
        typer.Option(
            help="One scale per tensor: absmax, power_of_two or none. e8 formats need none."
        ),
    ] = "absmax",
    policy: Annotated[
        str | None,
        typer.Option(
            help="A policy, {} in the place of the format; instead of target, rounding, overflow "
            "and scale."
        ),
    ] = None,
    accumulator: Annotated[
        str | None,
        typer.Option(help="How contractions add up, such as e8m13:chunk128 or hopper_fp8."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of stochastic rounding.", min=0, max=2**32 - 1)
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results, which go on where they are.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the results that the folder has.")
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            help="CPU devices to share the formats out over; by default all cores.", min=1
        ),
    ] = None,
) -> None:
    """Try every format on a trained model, and draw the exponent x mantissa map.

    Examples:

      qsim sweep --out out/sweep

      qsim sweep models.efficientnet_lite0:subject --exponents 3-5 --mantissas 2-4 --target weights

      qsim sweep my_model:subject --exponents '' --integers 4,8 --formats ocp_e4m3,ocp_e2m1

      qsim sweep --policy 'weights={} absmax; .*head.* activations=none; activations=e4m3 absmax'

      qsim sweep --exponents 4 --mantissas 3 --integers '' --accumulator e5m10:chunk64
    """
    if policy:
        require_unsaid(context, "target", "rounding", "overflow", "scale")
    if fresh and out is None:
        raise ValueError("--fresh discards what a folder has: say which, --out FOLDER")
    use_devices(devices or cores())
    from qsim.numbers.catalogue import short_name
    from qsim.report import studies
    from qsim.studies.study import Study

    one = {"targets": target, "roundings": rounding, "overflows": overflow, "scales": scale}
    study = Study(
        name=subject,
        subject=subject,
        formats=tuple(map(short_name, formats_of(exponents, mantissas, integers, formats))),
        accumulators=(accumulator,) if accumulator else (),
        seeds=(seed,),
        **({"policies": (policy,)} if policy else {key: (value,) for key, value in one.items()}),
    )
    raise typer.Exit(studies.sweep(study, out=out, fresh=fresh))


@app.command("sites")
def list_sites(
    subject: SubjectArgument = BUNDLED,
    backward: Annotated[
        bool, typer.Option("--backward", help="Of the model's gradient, forward pass included.")
    ] = False,
    policy: Annotated[
        str | None, typer.Option(help="Show which rule of this policy counts where.")
    ] = None,
) -> None:
    """Show the operations of a model that a policy can address, as a tree with their costs.

    Operations are added up by the path, the primitive, the direction and the roles of operands.

    Examples:

      qsim sites models.byte_lm:subject --backward

      qsim sites --policy 'weights=mxfp4; .*attention.*=bfloat16'
    """
    from qsim.report import console
    from qsim.sweeps.subject import load

    console.sites(load(subject), backward=backward, policy=policy)

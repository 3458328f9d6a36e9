"""The program that commands belong to."""

import typer

__all__ = ["app"]

app = typer.Typer(
    name="qsim",
    help="Emulated number formats for JAX programs: every format of a sweep in one compiled call.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

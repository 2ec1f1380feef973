"""The command `symspec`: its commands are registered here, one file each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from symspec.cli.commands import (
    audit,
    demo,
    errors,
    fit,
    hmc,
    influence,
    info,
    jacobian,
    report,
    train,
    validate,
)
from symspec.cli.shared.signals import find_exit_code, heeding_signals, say_interrupted
from symspec.cli.shared.words import say
from symspec.errors import SymspecError, tell_without_places
from symspec.version import __version__


class _Commands(TyperGroup):
    """Turns errors that a user can mend into one line and exit code 1, Ctrl-C and SIGTERM, too."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SymspecError, OSError) as error:
            say(f"[bold red]Error:[/] {escape(_describe(error))}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            say_interrupted()
            raise typer.Exit(find_exit_code()) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register(command: Callable[..., None], examples: str) -> None:
    """Add a command; its docstring is broken into lines by the screen, not as in the file."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    words = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(help=words, epilog=examples)(command)


_register(demo.demo, demo.EXAMPLES)
_register(train.train, train.EXAMPLES)
_register(fit.fit, fit.EXAMPLES)
_register(validate.validate, validate.EXAMPLES)
_register(errors.errors, errors.EXAMPLES)
_register(audit.audit, audit.EXAMPLES)
_register(influence.influence, influence.EXAMPLES)
_register(hmc.hmc, hmc.EXAMPLES)
_register(jacobian.jacobian, jacobian.EXAMPLES)
_register(report.report, report.EXAMPLES)
_register(info.info, info.EXAMPLES)


def main() -> None:
    """Run the command line, as the command `symspec` does."""
    tell_without_places()
    try:
        with heeding_signals():
            app(prog_name="symspec")
    except KeyboardInterrupt:  # one that was sent again, and came when all had ended
        raise SystemExit(find_exit_code()) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"symspec {__version__}")
        raise typer.Exit


@app.callback()
def symspec(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Exact derivatives and honest error bars for regression networks on spectra."""


def _describe(error: BaseException) -> str:
    """Message and notes of an error on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())

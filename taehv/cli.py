"""The ``taehv`` command (also ``python -m taehv.cli``): the functions of ``taehv.commands`` put together.

What a command needs is imported by its function, so that help does not wait for torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from taehv import __version__
from taehv.commands import track
from taehv.commands.compare import compare
from taehv.commands.convert import convert
from taehv.commands.doctor import doctor
from taehv.commands.manifest import manifest
from taehv.commands.videos import decode, encode, reconstruct
from taehv.runtime.errors import exit_code
from taehv.runtime.text_encoding import use_utf8

COMMANDS: tuple[Callable[..., int], ...] = (manifest, reconstruct, encode, decode, convert, compare, doctor)
EXIT_CODES = "Exit code: 0 done, 1 an error that you can fix (the message says how), 2 wrong usage or params.yaml."
EXIT_USAGE = 2


class Command(TyperCommand):
    """A command that also takes names like ``-1`` and ``- holiday.mp4``, which no option can be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Such a name becomes ``./-1``, the same path, where it is not an option's value."""
        params = self.get_params(ctx)
        options = {name for param in params for name in param.opts}
        with_value = {name for param in params if not getattr(param, "is_flag", True) for name in param.opts}

        def is_name(word: str) -> bool:
            unlike_options = " " in word or re.fullmatch(r"-\d*\.?\d+", word)
            return word.startswith("-") and bool(unlike_options) and word.partition("=")[0] not in options

        words = zip(["", *args], args, strict=False)
        args = [f"./{word}" if is_name(word) and before not in with_value else word for before, word in words]
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            vars(error)["ctx"] = ctx  # not every error knows whose options are wrong
            raise


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"taehv {__version__}")
        raise typer.Exit


def _taehv(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train tiny video autoencoders, reproducibly.

    \b
    taehv COMMAND --help      options, examples and exit codes of a command
    """
    _help_without_command(context)


def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)


def _app() -> typer.Typer:
    app = typer.Typer(
        callback=_taehv,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for function in COMMANDS:
        _add(app, function.__name__, function)
    tracking = typer.Typer(
        callback=_help_without_command, invoke_without_command=True, help=track.HELP, short_help=track.HELP
    )
    for name, action in track.ACTIONS.items():
        _add(tracking, name, action)
    app.add_typer(tracking, name="track")
    return app


def _add(app: typer.Typer, name: str, function: Callable[..., int]) -> None:
    says_exit_codes = "Exit code:" in (function.__doc__ or "")
    app.command(name, cls=Command, epilog=None if says_exit_codes else EXIT_CODES)(function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 for an error the user can fix, 2 for wrong params.

    Raises:
        SystemExit: 0 after help or the version, 2 for wrong usage, which is one line of text.
    """
    if arguments is None:
        use_utf8()
    command = typer.main.get_command(_app())
    if arguments is None and "_TAEHV_COMPLETE" in os.environ:  # a shell asks how a line may go on
        command.main(prog_name="taehv")
    try:
        with command.make_context("taehv", list(sys.argv[1:] if arguments is None else arguments)) as context:
            return exit_code(lambda: int(command.invoke(context)))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except typer.TyperException as error:
        wrong: typer.Context | None = getattr(error, "ctx", None)
        said = " ".join(error.format_message().replace("Value error, ", "").split())
        stop = "" if said.endswith((".", "?")) else "."
        print(f"error: {said}{stop} See {wrong.command_path if wrong else 'taehv'} --help", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    sys.exit(main())

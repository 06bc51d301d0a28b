"""What a command says when it is used wrongly: one sentence on stderr, and the exit status 2."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal, NoReturn, ParamSpec, get_args, get_origin

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    ConsumeMultipleError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)
from rich.console import Console
from rich.markup import escape

_NAMES = {int: "a whole number", float: "a number", bool: "yes or no"}


def refuse(error: Exception | str, console: Console | None = None, status: int = 2) -> NoReturn:
    """Print the sentence of `error` and exit with `status`."""
    text = " ".join(str(error).split())
    (console or Console(stderr=True)).print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
    raise SystemExit(status)


P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Make `command` refuse what is wrong with its words, and what cannot be read or written."""

    @functools.wraps(command)
    def refused(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # of a reader that has enough, such as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes nowhere
            raise SystemExit(128 + signal.SIGPIPE) from None
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            refuse(described(error))

    return refused


def run(app: App, words: list[str] | None = None) -> Any:
    """Run `app` on `words` (default: the command line). What does not parse is refused."""
    words = sys.argv[1:] if words is None else words
    try:
        return app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        refuse(sentence(error))


def described(error: Exception) -> str:
    """The text of `error`; of the system's own errors what it was about, of a missing package how to install it."""
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs {error.name}; run `python -m pip install -e . --group bench` in the checkout"
    if isinstance(error, OSError) and error.filename is not None:
        return f"expected a file or folder that can be used, got {error.filename}: {error.strerror or error}"
    return str(error) or type(error).__name__


def sentence(error: CycloptsError) -> str:
    """Say what does not parse: the option, what was expected and what came."""
    command = " ".join(error.command_chain or ())
    by_kind: tuple[tuple[type[CycloptsError], Callable[[Any], str]], ...] = (
        (UnknownOptionError, lambda e: _unknown_option(e, command)),
        (UnknownCommandError, lambda e: _unknown_command(e)),
        (CoercionError, _wrong_value),
        (ValidationError, lambda e: f"{_option(e)}: {e.exception_message}"),
        (ConsumeMultipleError, lambda e: f"{_option(e)}: expected at least one value, got none"),
        (MissingArgumentError, lambda e: f"{_option(e)}: expected a value, got none"),
        (
            RepeatArgumentError,
            lambda e: f"{(e.token.keyword or 'word').removeprefix('--')}: expected it once, got it several times",
        ),
        (UnusedCliTokensError, lambda e: f"{command}: expected no further words, got {' '.join(e.unused_tokens or ())}"),
    )
    for kind, text in by_kind:
        if isinstance(error, kind):
            return text(error)
    return f"{command or 'command'}: {str(error).splitlines()[-1]}"


def _option(error: CycloptsError) -> str:
    """The name of what the error is about, as the command line spells it."""
    if error.argument is None:
        return " ".join(error.command_chain or ("command",))
    return str(error.argument.name).removeprefix("--").replace("-", "_") or "word"


def _wrong_value(error: CoercionError) -> str:
    token = error.token or (error.argument.tokens[0] if error.argument and error.argument.tokens else None)
    got = repr(token.value) if token is not None else "none"
    if error.msg is not None:
        return f"{_option(error)}: {error.msg}"
    return f"{_option(error)}: expected {_expected(error.target_type)}, got {got}"


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return _NAMES.get(kind, "another kind of value")


def _unknown_option(error: UnknownOptionError, command: str) -> str:
    known = sorted({name for one in error.argument_collection for name in one.names if one.parse and name.startswith("--")})
    word = error.token.keyword or error.token.value
    return f"{command}: expected an option among {', '.join(known) or 'none'}, got {word}"


def _unknown_command(error: UnknownCommandError) -> str:
    found = error.app or App()
    return f"command: expected one of {', '.join(commands(found))}, got {(error.unused_tokens or ['none'])[0]}"


def commands(app: App) -> list[str]:
    """The names of the commands of `app`."""
    return sorted(name for name in app if not name.startswith("-"))

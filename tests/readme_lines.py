"""The examples of a Markdown document, and a check for each kind of command line that one may hold."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.images.command import Network, Plan, settings_of
from benchmarks.run import usage

ROOT = Path(__file__).parent.parent
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<body>.*?)^```", flags=re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(python3? -m |pip |nox |git )")
# What a reader puts a name of his own in the place of.
_PLACES = {"OLD": "compared/first", "NEW": "compared/second", "FOLDER": "nowhere", "DIR": "nowhere"}


def blocks(text: str, *languages: str) -> list[str]:
    """The bodies of the fenced blocks in one of `languages`."""
    return [match["body"] for match in _FENCE.finditer(text) if match["language"].strip() in languages]


def commands(text: str) -> list[str]:
    """Every command of the shell blocks of `text`, and of the code inside its sentences, each once.

    Raises ValueError if a block is in a language that nothing here checks.
    """
    known = {"", "python", "bash", "sh", "shell", "console", "toml", "bibtex"}
    if other := {match["language"].strip() for match in _FENCE.finditer(text)} - known:
        raise ValueError(f"text: expected blocks in {', '.join(sorted(known))}, got {', '.join(other)}")
    lines = [line for body in blocks(text, "", "bash", "sh", "shell", "console") for line in _lines(body)]
    prose = _FENCE.sub("", text)
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if _COMMAND.match(code)]
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split("&&")))


def _lines(body: str) -> Iterator[str]:
    for line in body.replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
        if words:
            yield words


def check(command: str) -> None:
    """Run `command` in the present folder, or take it to the point where it would measure, train or install.

    Fails the test on a command that nothing here knows.
    """
    words = [_PLACES.get(word, word) for word in shlex.split(command)]
    for start, judge in _KNOWN.items():
        if tuple(words[: len(start)]) == start:
            judge(words[len(start) :])
            return
    pytest.fail(f"no check knows this line: {command}")


def _install(words: Sequence[str]) -> None:
    """Extras, groups and files that are named exist; nothing is installed."""
    rest = iter(words)
    known = {"nox", ".", _PROJECT["project"]["name"]}
    for word in rest:
        if word in ("-e", "--upgrade", "-U", "--quiet"):
            continue
        if word in ("-c", "--constraint", "-r"):
            assert (ROOT / next(rest)).is_file()
        elif word == "--index-url":
            assert next(rest).startswith("https://")
        elif word == "--group":
            assert next(rest) in _PROJECT["dependency-groups"]
        else:
            name, _, extras = word.partition("[")
            assert name in known or name.split("==")[0].lower() in _pinned(), word
            assert set(filter(None, extras.rstrip("]").split(","))) <= _PROJECT["project"]["optional-dependencies"].keys()


def _pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0].lower() for line in lines if "==" in line}


def sessions() -> dict[str, str]:
    """The sessions that noxfile.py declares, with their sources."""
    source = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(one) for one in node.decorator_list):
            found[node.name] = ast.unparse(node)
    return found


def _nox(words: Sequence[str]) -> None:
    """The session exists; what goes to a command of the suite is parsed by it, and measured by nobody."""
    own, _, given = "\0".join(words).partition("\0--\0") if "--" in words else ("\0".join(words), "", "")
    options, posargs = own.split("\0"), [word for word in given.split("\0") if word]
    flags = {"-s", "--session", "--no-venv", "--no-install", "-l", "--list"}
    names = [word for word in options if word not in flags]
    assert all(name in sessions() for name in names), f"expected sessions among {', '.join(sessions())}, got {names}"
    if not names:
        assert {"-l", "--list"} & set(options)
    for name in names:
        _SESSIONS.get(name, _no_words)(posargs)


def _no_words(words: Sequence[str]) -> None:
    assert not words, f"no check knows these words of a session: {' '.join(words)}"


def _suite(words: Sequence[str]) -> None:
    """A command of the suite: `run` as a plan, training up to its settings, anything else for real."""
    first, *rest = words
    if first == "run":
        _planned(rest)
    elif first == "train-images":
        _, bound, _ = cli.app.parse_args(words, exit_on_error=False, print_error=False)
        arguments = bound.arguments
        given = [arguments.get(name, default) for name, default in _TRAINING.items()]
        assert settings_of(*given).epochs > 0
        assert arguments["out"]
    elif first == "audit-images":
        with pytest.raises(SystemExit) as end:  # the images are not here
            usage.run(cli.app, list(words))
        assert end.value.code == 2
    else:
        _succeeds(words)


def _planned(words: Sequence[str]) -> None:
    """What `run` would do, for a session that gives it a preset if the words do not."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--out":
            next(rest)
        elif word != "--retry":
            kept.append(word)
    _succeeds(["plan", *kept])


def _bench(words: Sequence[str]) -> None:
    _planned(words if "--preset" in words else ["--preset", "default", *words])


def _succeeds(words: Sequence[str]) -> None:
    """Run a command of the suite; 1 is the answer of a comparison that found changes."""
    status: object = 0
    try:
        usage.run(cli.app, list(words))
    except SystemExit as end:
        status = end.code or 0
    assert status in ((0, 1) if words[0] == "compare" else (0,)), f"{' '.join(words)}: status {status}"


def _collected(words: Sequence[str]) -> None:
    assert all(word.startswith("-") or (ROOT / word.split("::")[0]).exists() for word in words)


def _environments(words: Sequence[str]) -> None:
    from reference.environments import get_environment

    for name in words:
        get_environment(name)


def _tool(words: Sequence[str]) -> None:
    assert set(words) <= {"--fix"}


def _bars(words: Sequence[str]) -> None:
    assert set(words[::2]) <= {"--threads", "--blocks"}
    assert all(int(word) > 0 for word in words[1::2])


def _cloned(words: Sequence[str]) -> None:
    assert words


_TRAINING = {"data": None, "network": Network(), "plan": Plan()}
_SESSIONS: dict[str, Callable[[Sequence[str]], None]] = {
    "bench": _bench,
    "gpu": lambda words: _planned(["--preset", "gpu", "--device", "cuda", *words]),
    "report": lambda words: _succeeds(["report", *words]) if words else _succeeds(["cite", "T1"]),
    "compare": lambda words: _succeeds(["compare", *words]),
    "peers": _environments,
    "tests": _collected,
    "micro": _collected,
    "slow": _collected,
    "bars": _bars,
    "lint": _tool,
}
_KNOWN: dict[tuple[str, ...], Callable[[Sequence[str]], None]] = {
    ("python", "-m", "pip", "install"): _install,
    ("pip", "install"): _install,
    ("nox",): _nox,
    ("python", "-m", "benchmarks.dev.bars"): _bars,
    ("python", "-m", "benchmarks"): _suite,
    ("python", "-m", "reference.environments"): _environments,
    ("git", "clone"): _cloned,
    ("cd",): _cloned,
}

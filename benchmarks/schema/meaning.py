"""What Python source computes, apart from how it is written: the fingerprint behind case keys.

The fingerprint of a set of modules is a hash over their syntax trees. It does not change with formatting, comments,
docstrings, the order of imports, type annotations, or the name and place of a module of this repository. It changes with
every expression, constant, name of a function, class or variable, and default value.

Annotations count where they may be read when the program runs: in class bodies (dataclasses, pydantic, named tuples), and on
functions below a decorator that is not in `INERT` (Triton's ``constexpr``, torch's operator schemas).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("efficient_kan", "reference", "benchmarks")

# Decorators that do not read the annotations of what they decorate.
INERT = frozenset(
    {
        *("staticmethod", "classmethod", "property", "setter", "getter", "deleter", "cached_property", "abstractmethod"),
        *("cache", "lru_cache", "wraps", "contextmanager", "override", "final", "no_grad", "inference_mode"),
        "once_differentiable",
    }
)
# Modules that give names for annotations. A use that decides something, such as a base class, shows where it stands.
_OF_TYPES = frozenset({"__future__", "typing", "typing_extensions", "collections.abc"})


@dataclass(frozen=True)
class Module:
    """A module of the repository at `root`, by dotted name; `path` is its file."""

    root: Path
    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree. Raises ValueError if the file is not Python."""
        return parsed(self.path)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file. Raises ValueError if it is not Python."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"source: expected Python, got {path.name}: {error}") from error


def find(root: Path, name: str) -> Module | None:
    """Return the module called `name` in the repository at `root`; None if it has none."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if is_file(path):
            return Module(root, name, path)
    return None


is_file = cache(Path.is_file)  # every mention of a module asks for it


def below(root: Path, name: str) -> list[Module]:
    """Return the module called `name`, or all modules of the package of that name.

    Raises ValueError if there is none.
    """
    place = root.joinpath(*name.split("."))
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"sources: expected a module or package in this repository, got {name!r}")
    return [Module(root, _dotted(root, file), file) for file in files]


def _dotted(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def fingerprint(modules: Iterable[Module]) -> str:
    """Return the hash of what `modules` compute together, in whatever order they are given.

    An import of another module of the set stands for what that module computes, so that renaming it changes nothing and
    importing the same name from elsewhere does. An import of a module of the repository outside the set stands for itself.
    """
    texts = {module.name: form(module) for module in modules}
    alone = {name: _digest(_resolved(one, {})) for name, one in texts.items()}
    return _digest("\n".join(sorted(_digest(_resolved(one, alone)) for one in texts.values())))


def of_file(path: Path, root: Path) -> str:
    """Return the hash of what a file outside the packages computes, such as a plugin."""
    return _digest(_resolved(form.__wrapped__(Module(root, path.stem, path)), {}))


# No text of a tree holds these characters: names cannot, and constants are escaped.
_REFERENCE = re.compile("\0(.*?)\0")  # to a module of the repository, by name
_IMPORTS = re.compile("\1(.*?)\2")  # statements in a row that only import, each after the character \1


def _resolved(text: str, modules: Mapping[str, str]) -> str:
    """Return `text` with what `modules` says of the modules it refers to, and imports in an order that no name decides."""

    def meant(part: str) -> str:
        return _REFERENCE.sub(lambda found: modules.get(found[1], ""), part)

    return meant(_IMPORTS.sub(lambda found: ";".join(sorted(map(meant, found[1].split("\1")))), text))


@cache
def form(module: Module) -> str:
    """Return the text in which modules that compute the same are equal, but for marks where it refers to other modules."""
    return _Form(module).text()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Form:
    """The text of a module's tree in which equal means equal, with a mark where it refers to a module of the repository."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._bound = dict(self._modules_bound())

    def text(self) -> str:
        """The whole module."""
        return self._block(self._module.tree.body)

    def _modules_bound(self) -> Iterator[tuple[str, str]]:
        """Names that stand for a module of the repository throughout the file, and which."""
        names: dict[str, set[str | None]] = {}
        for node in ast.walk(self._module.tree):
            for name, target in _bindings(node, self._target):
                names.setdefault(name, set()).add(target)
        for name, targets in names.items():
            if len(targets) == 1 and (target := targets.pop()) is not None:
                yield name, target

    def _target(self, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str | None:
        """The module of the repository that `alias` binds to its name, if it is one."""
        if isinstance(node, ast.ImportFrom):
            name = f"{self._origin(node)}.{alias.name}"
        elif alias.asname or "." not in alias.name:
            name = alias.name
        else:
            return None
        return name if find(self._module.root, name) else None

    def _origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that names are imported from."""
        if not node.level:
            return node.module or ""
        parts = self._module.package.split(".")
        kept = parts[: len(parts) - node.level + 1]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _block(self, statements: Iterable[ast.stmt], *, of_class: bool = False) -> str:
        parts: list[str] = []
        imports: dict[str, None] = {}
        for statement in statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports |= dict.fromkeys(self._imports(statement))
                continue
            if text := self._statement(statement, of_class):
                parts += [*_together(imports), text]
                imports.clear()
        return "{" + ";".join([*parts, *_together(imports)]) + "}"

    def _imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        for alias in node.names:
            origin = self._origin(node) if isinstance(node, ast.ImportFrom) else alias.name
            if origin in _OF_TYPES:
                continue
            bound = alias.asname or alias.name
            if (target := self._target(node, alias)) is not None:
                yield f"module {_mark(target)}" + ("" if bound in self._bound else f" as {bound}")
            elif isinstance(node, ast.Import):
                yield f"import {alias.name} as {alias.asname}"
            else:
                own = find(self._module.root, origin) is not None
                yield f"from {'own ' + _mark(origin) if own else origin} import {alias.name} as {bound}"

    def _statement(self, node: ast.stmt, of_class: bool) -> str:
        """The text of a statement; empty for one that does nothing when the program runs."""
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
                return ""
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                return self._block(node.orelse) if node.orelse else ""
            case ast.AnnAssign(target=target, value=value) if not of_class:
                return "" if value is None else f"Assign(targets=[{self._form(target)}],value={self._form(value)})"
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self._function(node)
            case ast.ClassDef():
                head = self._fields(node, without={"body"})
                return f"ClassDef({head}){self._block(node.body, of_class=True)}"
            case _:
                return self._form(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        inert = all(_called(decorator) in INERT for decorator in node.decorator_list)
        without = {"body", "returns", "type_params"} if inert else {"body"}
        head = self._fields(node, without=without, annotated=not inert)
        return f"{type(node).__name__}({head}){self._block(node.body)}"

    def _fields(self, node: ast.AST, *, without: Iterable[str] = (), annotated: bool = True) -> str:
        parts = []
        for name, value in ast.iter_fields(node):
            if name in without or name in ("ctx", "type_comment", "kind") or value is None or value == []:
                continue  # an absent field, for versions of Python differ in which there are
            parts.append(f"{name}={self._form(value, annotated=annotated)}")
        return ",".join(parts)

    def _form(self, value: object, *, annotated: bool = True) -> str:
        match value:
            case ast.Constant(value=str() as text) if "." in text and find(self._module.root, text):
                return f"own({_mark(text)})"
            case ast.Name(id=name) if name in self._bound:
                return f"own({_mark(self._bound[name])})"
            case ast.Constant(value=constant):
                return repr(constant)
            case ast.arg(arg=name, annotation=annotation):
                return f"{name}:{self._form(annotation)}" if annotated and annotation else name
            case ast.arguments():
                return f"arguments({self._fields(value, annotated=annotated)})"
            case ast.stmt():
                within = {name for name, body in ast.iter_fields(value) if _is_block(body)}
                blocks = "".join(f"{name}{self._block(getattr(value, name))}" for name in sorted(within))
                return f"{type(value).__name__}({self._fields(value, without=within)}){blocks}"
            case ast.ExceptHandler(body=body) | ast.match_case(body=body):
                return f"{type(value).__name__}({self._fields(value, without={'body'})}){self._block(body)}"
            case ast.AST():
                return f"{type(value).__name__}({self._fields(value)})"
            case list():
                return "[" + ",".join(self._form(one, annotated=annotated) for one in value) + "]"
            case _:
                return repr(value)


def _together(imports: Iterable[str]) -> list[str]:
    """Imports in a row as one part, whose order is settled once it is known what the modules compute."""
    return ["\1" + "\1".join(imports) + "\2"] if imports else []


def _mark(name: str) -> str:
    return f"\0{name}\0"


def _is_block(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], ast.stmt)


def _called(decorator: ast.expr) -> str:
    """The last name of a decorator, called or not."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _bindings(
    node: ast.AST, target: Callable[[ast.Import | ast.ImportFrom, ast.alias], str | None]
) -> Iterator[tuple[str, str | None]]:
    """Names that `node` itself binds, each with the module of the repository that it binds it to (None: something else)."""
    match node:
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], target(node, alias)
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name, None
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name, None
        case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
            yield name, None
        case ast.MatchMapping(rest=str() as name):
            yield name, None
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            for name in names:
                yield name, None

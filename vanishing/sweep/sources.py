"""The code that a run depends on: the modules that it imports, each with a hash of its code.

Sources are read and not imported. Comments, docstrings and formatting are no code; neither is what
a package's `__init__` lists for lazy import, since only the names that are used count.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
NO_CODE = {"__all__", "__version__", "__getattr__", "__dir__"}  # whose values change no result


def module_hashes(roots: Sequence[str | Path]) -> dict[str, str]:
    """The hash of the code of every module that some modules import, directly or indirectly.

    Args:
      roots: dotted names of modules, or paths of source files. The packages of the named modules
        are searched, and the folders of the files; other packages are libraries, whose versions
        tell their code.

    Returns:
      Hashes by dotted name (of files the name without suffix), the roots first and then in the
      order of imports; "unknown" for a root without a source file.

    >>> list(module_hashes(["vanishing._text"]))
    ['vanishing._text', 'vanishing', 'vanishing._lazy']
    """
    tops = {"vanishing", *(root.split(".")[0] for root in roots if isinstance(root, str))}
    folders = {name: folder for name in tops for folder in _folders(name)}
    hashes, waiting = {}, []
    for root in roots:
        if isinstance(root, Path):
            waiting.append(_Source(root.stem, root))
            folders = {path.stem: root.parent for path in root.parent.iterdir()} | folders
        else:
            waiting.append(_locate(root, folders) or _Source(root, Path()))
    while waiting:
        source = waiting.pop(0)
        if source is None or source.name in hashes:
            continue
        if not source.path.is_file():
            hashes[source.name] = "unknown"
            continue
        code = _read(source.path, source.path.stat().st_mtime_ns)
        names = dict.fromkeys(_imports(source, code, folders))
        waiting += [_locate(name, folders) for name in names if name not in hashes]
        hashes[source.name] = code.hash
    return hashes


def module_of(function: Callable) -> str | Path | None:
    """The module that a function is defined in, as `module_hashes` takes it.

    A module that Python runs (`python -m package.module`) has its own name, a script its path, and
    a function without a source file None.
    """
    while isinstance(function, functools.partial):
        function = function.func
    module = sys.modules.get(function.__module__)
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.has_location and _folders(spec.name.split(".")[0]):
        return spec.name
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


class _Source(NamedTuple):
    """A module's dotted name and source file."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


class _Code(NamedTuple):
    """The imports and names of a module, but not those that only type checkers read."""

    hash: str
    imports: list[ast.Import | ast.ImportFrom]
    chains: list[tuple[str, ...]]  # of names such as `a.b.c`, if `a` is no variable of a function
    lazy: dict[str, str]  # the table that a package gives to `vanishing._lazy.attach`


def _folders(package: str) -> list[Path]:
    """The folder that holds a top-level package, or nothing if there is none."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return [Path(location).parent for location in locations[:1]]


def _locate(name: str, folders: dict[str, Path]) -> _Source | None:
    """The source of a module; None if it is not in the folders or has none."""
    top, *_ = name.split(".")
    if top not in folders:
        return None
    path = folders[top].joinpath(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return _Source(name, candidate)
    return None


def _hash(tree: ast.Module) -> str:
    """A hash of the code of a tree, from which everything else is removed."""
    tree.body = [node for node in tree.body if not _lists_names(node)]
    blocks: list[ast.AST] = [tree]
    for block in blocks:  # which grows
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            nodes = getattr(block, field, None)
            if isinstance(nodes, list):
                code = [n for n in nodes if not (_is_text(n) or _is_for_type_checkers(n))]
                setattr(block, field, code)
                blocks += code
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or another text that nothing uses."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _lists_names(node: ast.AST) -> bool:
    """Whether a statement of a package's `__init__` lists names, or its version."""
    if not isinstance(node, ast.Assign):
        return False
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _stored(n)}
    return bool(names) and names <= NO_CODE


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _is_for_type_checkers(node: ast.AST) -> bool:
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return _chain(node.test)[-1:] == ("TYPE_CHECKING",)


def _imports(source: _Source, code: _Code, folders: dict[str, Path]) -> Iterator[str]:
    """The dotted names of the modules that a module's code imports or uses through a package."""
    bound: dict[str, str] = {}  # the modules that names of this file stand for
    yield from _with_parents(source.name)
    for node in code.imports:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
                top = alias.name.split(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        else:
            module = _absolute(node, source)
            for alias in node.names:
                home = _home(module, alias.name, folders)
                yield from _with_parents(home)
                if home == f"{module}.{alias.name}":
                    bound[alias.asname or alias.name] = home
                if alias.name == "*":
                    yield from _all_of(module, folders)
    for names in code.chains:
        if names[0] in bound:
            yield from _homes(bound[names[0]], names[1:], folders)


@functools.cache
def _read(path: Path, modified: int) -> _Code:
    del modified  # a file that is written anew is read anew
    tree = ast.parse(path.read_bytes(), str(path))
    imports, chains = [], []
    nodes: list[tuple[ast.AST, frozenset[str]]] = [(tree, frozenset())]
    for node, own in nodes:  # which grows
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        chain = _chain(node) if isinstance(node, ast.Name | ast.Attribute) else ()
        if chain and chain[0] not in own:
            chains.append(chain)
        if not chain and not _is_for_type_checkers(node):
            own = own | _own_names(node) if isinstance(node, SCOPES) else own
            nodes += [(child, own) for child in ast.iter_child_nodes(node)]
    lazy = _lazy_table(tree)
    return _Code(_hash(tree), imports, chains=list(dict.fromkeys(chains)), lazy=lazy)


def _homes(module: str, names: Sequence[str], folders: dict[str, Path]) -> Iterator[str]:
    """The modules behind `module.name...`; all modules of a package that is used as a value."""
    if not names:
        yield from _all_of(module, folders)
    for name in names:
        home = _home(module, name, folders)
        yield from _with_parents(home)
        if home != f"{module}.{name}":
            return
        module = home


def _chain(node: ast.AST) -> tuple[str, ...]:
    """The names of an expression such as `a.b.c`; none of another."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def _own_names(scope: ast.AST) -> frozenset[str]:
    """The names that a function or a comprehension gives to values of its own."""
    nodes = list(ast.walk(scope))
    assigned = {n.id for n in nodes if isinstance(n, ast.Name) and _stored(n)}
    return frozenset(assigned | {n.arg for n in nodes if isinstance(n, ast.arg)})


def _home(module: str, name: str, folders: dict[str, Path]) -> str:
    """The module that `module.name` is, or that it leads to by a lazy import."""
    if _locate(f"{module}.{name}", folders):
        return f"{module}.{name}"
    source = _locate(module, folders)
    lazy = _lazy_names(source) if source else {}
    return _home(f"{module}.{lazy[name]}", name, folders) if lazy.get(name) else module


def _all_of(module: str, folders: dict[str, Path]) -> Iterator[str]:
    """A module, and all that it lists for lazy import."""
    source = _locate(module, folders)
    for name in _lazy_names(source) if source else ():
        yield from _with_parents(_home(module, name, folders))


def _lazy_names(source: _Source) -> dict[str, str]:
    """The names that a package imports on first use, and the modules that hold them."""
    if source.path.name != "__init__.py":
        return {}
    return _read(source.path, source.path.stat().st_mtime_ns).lazy


def _lazy_table(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and _chain(call.func)[-1:] == ("attach",):
            return ast.literal_eval(call.args[1])
    return {}


def _absolute(node: ast.ImportFrom, source: _Source) -> str:
    """The module that a `from` imports from, with its full name."""
    if not node.level:
        return node.module or ""
    package = source.package.split(".")
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _with_parents(name: str) -> Iterator[str]:
    """A module and the packages that it lies in, which Python imports with it."""
    parts = name.split(".")
    yield from (".".join(parts[:i]) for i in range(len(parts), 0, -1))

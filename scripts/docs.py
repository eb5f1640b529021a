"""Writes the reference of every public name, and checks that nothing in it is missing or broken.

    scripts/docs            writes build/reference/, pages that need no network
    scripts/docs --check    only checks

Every public module, function, class, method and constant must have a docstring (a constant or a
field: a comment beside it), every name in backquotes that begins with a public module must exist,
and every link of the pages must lead to something.
"""

import ast
import dataclasses
import functools
import html.parser
import importlib
import inspect
import io
import re
import shutil
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import vanishing

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "reference"
OUTSIDE = ("experiments", "flax", "jax", "numpy", "optax")  # of which names may be quoted too
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?`(?!`)")

# Where types come from, which a reader of a signature need not know; a dot may be coloured, and
# the quotes of its colour escaped, as in what the search looks through.
DOT = r"""(?:\.|</span><span class=\\?"o\\?">\.</span><span class=\\?"n\\?">)"""
LONG_NAMES = re.compile(
    rf"\b(?:jaxtyping|typing|collections{DOT}abc|jaxlib{DOT}_jax){DOT}".replace("{DOT}", DOT)
)


@dataclasses.dataclass(frozen=True)
class Documented:
    """One public name, and where its documentation stands."""

    module: ModuleType  # the public module that offers it
    home: ModuleType  # the file that defines it
    name: str  # dotted where it is inside of a class; "" for the module itself
    text: str  # its docstring, or the comment beside a constant

    @property
    def place(self) -> str:
        """Its full name and file, for a message."""
        file = Path(inspect.getfile(self.home)).relative_to(ROOT)
        return f"{'.'.join(filter(None, (self.module.__name__, self.name)))} ({file})"


def public_modules() -> dict[str, ModuleType]:
    """The package and its public modules, by full name."""
    offered = (getattr(vanishing, name) for name in vanishing.__all__)
    inside = {module.__name__: module for module in offered if isinstance(module, ModuleType)}
    return {"vanishing": vanishing} | inside


@functools.cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


@functools.cache
def public_names(module: ModuleType) -> dict[str, Any]:
    """What a module offers besides other modules, by name; its `__all__`, or what it defines."""
    tree = _tree(module)
    defined = [
        target.id if isinstance(target, ast.Name) else target.name
        for node in tree.body
        for target in getattr(node, "targets", [getattr(node, "target", node)])
        if isinstance(target, ast.Name | ast.FunctionDef | ast.ClassDef)
    ]
    names = getattr(module, "__all__", None) or [n for n in defined if not n.startswith("_")]
    values = {name: getattr(module, name) for name in names}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


@functools.cache
def home_of(module: ModuleType, name: str) -> ModuleType:
    """The module that defines a name which another offers."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vanishing"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home_of(importlib.import_module(str(node.module)), alias.name)
    return module


@functools.cache
def comments(module: ModuleType, inside: str = "") -> dict[str, str]:
    """The comments beside the assignments of a module, or of one of its classes, by name."""
    source = inspect.getsource(module)
    lines = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and "noqa" not in token.string
    }
    body = _tree(module).body
    for part in filter(None, inside.split(".")):
        (node,) = (n for n in body if isinstance(n, ast.ClassDef) and n.name == part)
        body = node.body
    result = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if not isinstance(target, ast.Name):
                continue
            beside = lines.get(node.end_lineno or 0) or lines.get(node.lineno)
            above = lines.get(node.lineno - 1) if node.col_offset == 0 else None
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                beside = str(after.value.value)
            if beside or above:
                result[target.id] = beside or str(above)
    return result


def documented() -> Iterator[Documented]:
    """Every public name with its documentation."""
    for module in public_modules().values():
        yield Documented(module, module, "", inspect.getdoc(module) or "")
        for name, value in public_names(module).items():
            home = home_of(module, name)
            if inspect.isclass(value) and value.__module__.startswith("vanishing"):
                yield Documented(module, home, name, _own_docstring(value))
                yield from _members(module, home, name, value)
            elif inspect.isroutine(value):
                yield Documented(module, home, name, inspect.getdoc(value) or "")
            else:
                yield Documented(module, home, name, comments(home).get(name, ""))


def _own_docstring(value: type) -> str:
    """A class's docstring, unless Python made it from the fields."""
    text = inspect.getdoc(value) or ""
    return "" if text.startswith(f"{value.__name__}(") else text


def _members(module: ModuleType, home: ModuleType, name: str, value: type) -> Iterator[Documented]:
    if getattr(value, "_is_protocol", False):
        return  # the contract of a protocol stands on its class
    for member, function in vars(value).items():
        function = getattr(function, "__func__", function)
        is_method = inspect.isfunction(function) or isinstance(function, property)
        if is_method and not member.startswith("_"):
            yield Documented(module, home, f"{name}.{member}", inspect.getdoc(function) or "")


def problems() -> list[str]:
    """What is missing or broken in the documentation of the public names, a line each."""
    lines = []
    for entry in documented():
        if not entry.text:
            lines.append(f"{entry.place} has no docstring.")
        for reference in REFERENCE.findall(entry.text):
            if not resolves(reference, entry):
                lines.append(f"{entry.place} names `{reference}`, which does not exist.")
    return lines


def resolves(reference: str, entry: Documented) -> bool:
    """Whether a dotted name exists; one that begins with no name known here is taken to."""
    first, *rest = reference.split(".")
    owner = getattr(entry.module, entry.name.partition(".")[0], None)
    spaces = [vars(entry.home), {name: getattr(vanishing, name) for name in vanishing.__all__}]
    if first in ("vanishing", *OUTSIDE):
        value = importlib.import_module(first)
    elif inspect.isclass(owner) and first == owner.__name__:
        value = owner
    else:
        value = next((space[first] for space in spaces if first in space), None)
    if value is None:
        return True  # a parameter, a file, another library
    for name in rest:
        if isinstance(value, ModuleType) and not hasattr(value, name):
            try:
                value = importlib.import_module(f"{value.__name__}.{name}")
            except ModuleNotFoundError:
                return False
        elif hasattr(value, name) or name in getattr(value, "__annotations__", {}):
            value = getattr(value, name, None)
        else:
            return False
    return True


def write() -> list[str]:
    """Write the pages, and return what is wrong with their links."""
    import pdoc
    from pdoc import doc_ast, render

    modules = public_modules()
    for module in modules.values():
        for name, value in public_names(module).items():
            shown = _Written("{...}") if isinstance(value, Mapping) else value
            setattr(module, name, shown)  # pdoc looks at what a module holds, not what it can give
            home = home_of(module, name)
            remarks = doc_ast.walk_tree(module).var_docstrings
            if text := comments(home).get(name):
                remarks.setdefault(name, remark(text, value))
            if inspect.isclass(value) and value.__module__.startswith("vanishing"):
                _tell_fields(value, comments(home, value.__qualname__))
            elif inspect.isfunction(value):
                _tell_defaults(value)
    shutil.rmtree(OUT, ignore_errors=True)
    render.configure(docformat="google", show_source=True, footer_text=f"v{vanishing.__version__}")
    pdoc.pdoc("vanishing", output_directory=OUT)
    for file in (*OUT.rglob("*.html"), OUT / "search.js"):
        file.write_text(LONG_NAMES.sub("", file.read_text()))
    return list(broken_links(OUT))


def remark(text: str, value: Any) -> str:
    """What a page says of a constant: the comment beside it, and the names that a table has."""
    if not isinstance(value, Mapping):
        return text
    return f"{text}\n\nNames: {', '.join(f'`{name}`' for name in value)}."


def _tell_fields(value: type, texts: dict[str, str]) -> None:
    """Give the fields of a class the comments beside them, in place of what Python says of them."""
    from pdoc import doc_ast

    for name in getattr(value, "_fields", ()):
        getattr(value, name).__doc__ = texts.get(name, "")
        value.__new__.__doc__ = ""
    for name, text in texts.items():
        doc_ast.walk_tree(value).var_docstrings.setdefault(name, text)


def _tell_defaults(function: FunctionType) -> None:
    """Let a signature show its defaults as they are written, not what they have become."""
    (node,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(node, ast.FunctionDef)
    positional = node.args.posonlyargs + node.args.args
    defaults = dict(zip(reversed(positional), reversed(node.args.defaults), strict=False))
    defaults |= dict(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    texts = {argument.arg: ast.unparse(d) for argument, d in defaults.items() if d}
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(default=_Written(texts[name])) if name in texts else parameter
        for name, parameter in signature.parameters.items()
    ]
    function.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore


class _Written(str):
    """Source text, shown as it is."""

    __repr__ = str.__str__


class _Links(html.parser.HTMLParser):
    """Collects what a page links to and what can be linked to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the addresses of a tag and its id."""
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            loaded = name == "src" or (name == "href" and tag in ("a", "link"))
            if loaded and not (tag == "a" and (value or "").startswith("https://pdoc.dev")):
                self.targets.append(value or "")


def broken_links(folder: Path) -> Iterator[str]:
    """The links of the pages of a folder that lead nowhere, or outside of it."""
    pages = {}
    for path in folder.rglob("*.html"):
        pages[path.resolve()] = page = _Links()
        page.feed(path.read_text())
    for path, page in pages.items():
        for target in page.targets:
            if target.startswith("data:"):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (file in pages and anchor not in pages[file].anchors):
                page_name = path.relative_to(folder.resolve())
                yield f"{page_name} links to {target}, which does not exist."


def main(arguments: list[str]) -> None:
    """Check, and write the pages; the exit code is 1 if anything is missing or broken."""
    if set(arguments) - {"--check"}:
        sys.exit(f"docs: unexpected argument {arguments[0]!r}; it takes --check only.")
    lines = problems()
    if not arguments:
        lines += write()
        print(f"Wrote {(OUT / 'index.html').relative_to(ROOT)}.")
    if lines:
        sys.exit("\n".join(lines))
    print("Nothing is missing or broken.")


if __name__ == "__main__":
    main(sys.argv[1:])

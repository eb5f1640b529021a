"""What a function refers to, all that it may depend on beside its arguments.

Followed are closures, defaults, global variables that its code names, functions in functions, the
functions around and inside of others (`functools.wraps`, `functools.partial`, methods), containers,
NumPy arrays, and those attributes of objects, classes and modules that the code names somewhere.
Not followed are the variables of installed libraries, nor what no variable holds: files, clocks,
random generators.
"""

import builtins
import collections
import dataclasses
import dis
import functools
import itertools
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vanishing.probing import jaxpr

MOST = 10_000  # things that are followed

_PLAIN = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type(...), range, types.CodeType}
)
_READS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_ABSENT = object()
_SEQUENCES = (list, tuple, set, frozenset, collections.deque)
_MAPPINGS = (dict, types.MappingProxyType)
_NAMESPACES = ("types", "argparse")  # modules of classes whose objects only hold attributes


class _Again(int):
    """Stands for what was met before, by its number."""


def reached(roots: Iterable[Any]) -> list[Any] | None:
    """All that functions and objects refer to, in one list; None where it is too much to follow.

    Args:
      roots: the functions and objects.

    Returns:
      Values, and objects that are nothing but themselves. Where this list is the same at two times,
      see `same`, calls of the functions do the same.

    >>> factor = 2.0
    >>> reached([lambda w: factor * w])[-1]
    2.0
    """
    walk = _walk(roots)
    return None if walk is None else walk.things


def reach(roots: Iterable[Any], thing: Any) -> bool:
    """Do some functions and objects refer to a thing, as far as they can be followed?"""
    walk = _walk(roots)
    return walk is None or id(thing) in walk.seen


def held(things: Sequence[Any]) -> list[Any]:
    """What is to be remembered of things: objects as weak references, where there are such."""
    return [_held(thing) for thing in things]


def same(before: Sequence[Any], now: Sequence[Any]) -> bool:
    """Are these things those that are remembered?"""
    return len(before) == len(now) and all(map(_is, before, now))


def _held(thing: Any) -> Any:
    if type(thing) in _PLAIN or type(thing) is _Again:
        return thing
    try:
        return weakref.ref(thing)
    except TypeError:
        return thing


def _is(before: Any, now: Any) -> bool:
    if type(before) is weakref.ref:
        return before() is now
    if before is now:
        return True
    kind = type(before)
    if kind is not type(now) or not (kind in _PLAIN or kind is _Again):
        return False
    return before == now and repr(before) == repr(now)  # 0.0 and -0.0 are equal


class _Walk:
    """A walk along references, depth first."""

    def __init__(self, roots: list[Any]):
        self.todo = roots[::-1]
        self.things: list[Any] = []
        self.seen: dict[int, tuple[_Again, Any]] = {}  # holds things, so that no id is used twice
        self.names: dict[str, None] = {}  # that the code met so far names
        self.holders: list[Mapping[str, Any]] = []  # variables of objects, classes and modules

    def run(self) -> bool:
        """Goes the whole way; False where it is too long."""
        todo, things, seen = self.todo, self.things, self.seen
        while todo:
            thing = todo.pop()
            if type(thing) in _PLAIN:
                things.append(thing)
            elif id(thing) in seen:
                things.append(seen[id(thing)][0])
            else:
                seen[id(thing)] = _Again(len(seen)), thing
                parts = self._parts(thing)
                things.append(len(parts))
                todo.extend(reversed(parts))
                if len(things) + len(todo) > MOST:
                    return False
        return True

    def _parts(self, thing: Any) -> list[Any]:
        """What a thing is made of; those that are nothing but themselves go to the things."""
        if isinstance(thing, types.FunctionType):
            return self._of_function(thing)
        if isinstance(thing, _SEQUENCES):
            return [type(thing).__name__, *thing, *self._attributes(thing)]
        if isinstance(thing, _MAPPINGS):
            items = (part for item in thing.items() for part in item)
            return [type(thing).__name__, *items, *self._attributes(thing)]
        if isinstance(thing, np.ndarray):
            return _of_array(thing)
        if isinstance(thing, np.generic):
            return [type(thing).__name__, thing.item()]
        inside = _inside(thing)
        if not (inside or dataclasses.is_dataclass(type(thing))):
            self.things.append(thing)
        return [*inside, *self._attributes(thing)]

    def _attributes(self, thing: Any) -> list[Any]:
        """What a thing holds by name."""
        if isinstance(thing, types.ModuleType):
            return [] if _is_module_of_library(thing) else self._named(vars(thing))
        if isinstance(thing, type):
            if _is_of_library(thing.__module__):
                return []
            special = [value for name, value in vars(thing).items() if _is_special(name, value)]
            return [*thing.__bases__, *special, *self._named(vars(thing))]
        kind = type(thing)
        if isinstance(thing, jax.Array) or _is_closed(kind):
            # Of jitted functions and the like, what they are made of counts.
            wrapped = getattr(thing, "__wrapped__", None) if callable(thing) else None
            return [] if wrapped is None else [wrapped, *_variables(thing).values()]
        variables = _variables(thing)
        # The code of a library may read them all, as that of a dataclass.
        if dataclasses.is_dataclass(kind) or any(
            _is_of_library(base.__module__) and not _is_closed(base) for base in kind.__mro__
        ):
            return [kind, *(part for item in variables.items() for part in item)]
        return [kind, *self._named(variables)]

    def _of_function(self, function: types.FunctionType) -> list[Any]:
        code = function.__code__
        parts: list[Any] = [code, *map(_content, function.__closure__ or ())]
        own = function.__defaults__, function.__kwdefaults__, function.__dict__
        if any(own):
            parts += own
        if not _is_file_of_library(code.co_filename):
            names = _names(code)
            scope = function.__globals__
            parts += [scope.get(name, _ABSENT) for name in names.globals]
            parts += [sys.modules.get(name) for name in names.imports]
            parts += self._of_new_names(names.attributes)
        return parts

    def _named(self, variables: Mapping[str, Any]) -> list[Any]:
        """The variables of a holder that the code names, and later those that it will name."""
        self.holders.append(variables)
        names = [name for name in self.names if name in variables]
        return [part for name in names for part in (name, variables[name])]

    def _of_new_names(self, names: Iterable[str]) -> list[Any]:
        new = [name for name in names if name not in self.names]
        self.names |= dict.fromkeys(new)
        return [
            part
            for variables in self.holders
            for name in new
            if name in variables
            for part in (name, variables[name])
        ]


def _walk(roots: Iterable[Any]) -> _Walk | None:
    """A walk that has come to its end; None where it has none."""
    walk = _Walk(list(roots))
    try:
        return walk if walk.run() else None
    except Exception:  # whatever an object does that is asked for its attributes
        return None


class _Names(NamedTuple):
    """The names that a piece of code, and the functions in it, read."""

    globals: tuple[str, ...]
    imports: tuple[str, ...]
    attributes: tuple[str, ...]  # that are read, and all else that may name one


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> _Names:
    codes = list(_codes(code))
    instructions = [i for c in codes for i in dis.get_instructions(c) if i.opcode in dis.hasname]
    read = [i for i in instructions if not i.opname.startswith(("STORE_", "DELETE_"))]
    constants = (constant for c in codes for constant in c.co_consts)
    texts = (text for text in constants if isinstance(text, str) and text.isidentifier())
    return _Names(
        globals=_distinct(i.argval for i in read if i.opname in _READS_GLOBAL),
        imports=_distinct(i.argval for i in read if i.opname == "IMPORT_NAME"),
        attributes=_distinct(itertools.chain((i.argval for i in read), texts)),
    )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet bound
        return _ABSENT


def _of_array(array: np.ndarray) -> list[Any]:
    """An array by its contents, since they may change."""
    if array.dtype.hasobject:
        return [array.shape, *array.flat]
    return [array.dtype.str, array.shape, hash(array.tobytes())]


def _inside(thing: Any) -> tuple[Any, ...]:
    """The functions and objects that a callable or a descriptor of Python is made of."""
    match thing:
        case types.MethodType():
            return thing.__func__, thing.__self__
        case types.BuiltinMethodType() if not isinstance(thing.__self__, types.ModuleType | None):
            return thing.__name__, thing.__self__
        case functools.partial():
            return thing.func, thing.args, thing.keywords
        case staticmethod() | classmethod():
            return (thing.__func__,)
        case property():
            return thing.fget, thing.fset
        case functools.cached_property():
            return (thing.func,)
    return ()


def _variables(thing: Any) -> dict[str, Any]:
    """The attributes of an object, in its dictionary and in slots."""
    slots = {
        name: getattr(thing, name)
        for kind in type(thing).__mro__
        for name in _slots(kind)
        if hasattr(thing, name)
    }
    return slots | dict(getattr(thing, "__dict__", {}))


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _is_special(name: str, value: Any) -> bool:
    """Is it a function that Python calls without naming it?"""
    return name.startswith("__") and isinstance(value, types.FunctionType)


def _is_closed(kind: type) -> bool:
    """Is it a class of Python, NumPy or JAX, whose objects are nothing but themselves?"""
    return _is_closed_module(kind.__module__)


@functools.lru_cache(maxsize=4096)
def _is_closed_module(name: str) -> bool:
    root = name.partition(".")[0]
    closed = root in ("jax", "jaxlib", "numpy", "builtins") or root in sys.stdlib_module_names
    return closed and name not in _NAMESPACES


@functools.lru_cache(maxsize=4096)
def _is_of_library(module: str) -> bool:
    """Are classes of the module of this name those of an installed library?"""
    if _is_closed_module(module):
        return True
    return module in sys.modules and _is_module_of_library(sys.modules[module])


def _is_module_of_library(module: types.ModuleType) -> bool:
    return module is builtins or _is_file_of_library(getattr(module, "__file__", None) or "")


@functools.lru_cache(maxsize=4096)
def _is_file_of_library(file: str) -> bool:
    return not jaxpr.is_own(file)

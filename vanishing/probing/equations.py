"""Single equations of a jaxpr, read in the same way on every supported JAX.

A hi-primitive of JAX (`call_hi_primitive`, which the flags `jax_remat3`, `jax_custom_vjp3` and
`jax_custom_jvp3` put in the place of others, and `jax.lax.custom_root` from 0.12 on) keeps what it
does in an object. Here it has the name and the parameters of the equation that it stands for.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ref import AbstractRef
from jax.sharding import NamedSharding, PartitionSpec

from vanishing._numerics import is_cut_type

CALLS = {  # the primitives that only call a function, and the parameter that holds it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "call": "call_jaxpr",
    "closed_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
}
_CHECKPOINTS = ("remat2", "remat", "checkpoint")
_STANDS_FOR = {
    "RematTraced": "remat2",
    "CheckpointName": "name",
    "CustomVJPTraced": "custom_vjp_call",
    "CustomJVPTraced": "custom_jvp_call",
}
_KERNELS = ("call_exported", "ffi_call")  # without a program or a function in their parameters


class Loop(NamedTuple):
    """How a scan feeds its body: inputs are constants, then carries, then slices."""

    length: int
    reverse: bool
    consts: int
    carry: int


def operation(eqn) -> str:
    """What an equation does, in the name of JAX's usual primitive for it."""
    hidden = _hi_primitive(eqn)
    if hidden is None:
        return eqn.primitive.name
    kind = type(hidden).__name__
    return _STANDS_FOR.get(kind) or re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()


def parameters(eqn) -> Mapping[str, Any]:
    """The parameters of an equation, or of the hi-primitive in it."""
    hidden = _hi_primitive(eqn)
    return eqn.params if hidden is None else getattr(hidden, "params", {})


def _hi_primitive(eqn) -> Any:
    return eqn.params.get("_prim") if eqn.primitive.name == "call_hi_primitive" else None


def name_of(eqn) -> str:
    """Its operation; of a function with derivatives of its own, the name of that function."""
    name, params = operation(eqn), parameters(eqn)
    if not name.startswith("custom_"):
        return name
    debug = getattr(opened(params.get("call_jaxpr"))[0], "debug_info", None)
    own = params.get("name") or getattr(params.get("traced"), "fun_name", "")
    return str(own or getattr(debug, "func_name", "") or name).lstrip("_")


def bodies(eqn) -> tuple[Sequence[Any], Loop | None]:
    """The jaxprs that are read as frames of their own, and how they are looped over."""
    name, params = operation(eqn), parameters(eqn)
    if name == "scan":
        consts, carry = _scan_counts(params)
        loop = Loop(params["length"], params["reverse"], consts=consts, carry=carry)
        return [params["jaxpr"]], loop
    if name in _CHECKPOINTS:
        return [params["jaxpr"]], None
    if name == "cond":
        return params["branches"], None
    return (), None


def _scan_counts(params) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    inputs = params["ft_in"]  # from JAX 0.12 on
    consts, carry, _ = inputs.unpack() if hasattr(inputs, "unpack") else inputs
    return len(consts), len(carry)


def opened(program):
    """A jaxpr and its constants; JAX 0.12 has one type for open and closed ones."""
    if hasattr(program, "jaxpr") and hasattr(program, "consts"):
        return program.jaxpr, program.consts
    return program, ()


def is_call(eqn) -> bool:
    """Does an equation only call a function, or choose one, with or without derivatives for it?"""
    name = operation(eqn)
    return (
        name in CALLS
        or name == "cond"
        or name.startswith(("custom_jvp", "custom_vjp"))
        or _hi_primitive(eqn) is not None
    )


def programs_in(eqn) -> list[Any]:
    """All jaxprs in the parameters of an equation, or the one that a hi-primitive expands to."""
    programs = list(_programs(parameters(eqn).values()))
    hidden = _hi_primitive(eqn)
    if programs or hidden is None:
        return programs
    try:
        return [jax.make_jaxpr(hidden.expand)(*hidden.in_avals)]
    except Exception:  # whatever the code of a library does there
        return []


def _programs(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        program = getattr(value, "jaxpr", value)  # a closed jaxpr, a traced function, or neither
        if hasattr(program, "eqns"):
            yield program
        elif isinstance(value, Mapping):
            yield from _programs(value.values())
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def holds_python(eqn) -> bool:
    """Does an equation return numbers that Python, a kernel or another library computes?

    A primitive of another library counts if its parameters are more than plain values.
    """
    if not any(is_differentiable(var.aval) for var in eqn.outvars):
        return False
    if eqn.primitive.name in _KERNELS:
        return True
    values = list(parameters(eqn).values())
    implementation = getattr(eqn.primitive, "impl", None)
    module = getattr(getattr(implementation, "func", implementation), "__module__", None) or "jax"
    if not module.startswith("jax"):
        return any(not type(v).__module__.startswith(("builtins", "numpy", "jax")) for v in values)
    return any(callable(value) and not isinstance(value, type) for value in values)


def is_differentiable(spec) -> bool:
    """Has a value of this spec a cotangent: is it of real or complex floating-point numbers?"""
    return hasattr(spec, "shape") and _is_inexact(spec.dtype)


@functools.cache
def _is_inexact(dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def is_reference(spec) -> bool:
    """Is a value of this spec a mutable reference?"""
    return isinstance(spec, AbstractRef)


def varying_as(x, spec):
    """`x`, said to vary over the axes of a `shard_map` that values of this spec vary over."""
    kind = getattr(spec, "manual_axis_type", None)
    axes = getattr(kind, "varying", None) or getattr(spec, "vma", None)
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def zeros_of(spec) -> jax.Array:
    """Zeros of a spec, in float64 also where the loss alone has enabled it."""
    sharding = None
    if is_cut_type(spec):
        sharding = NamedSharding(spec.sharding.mesh, PartitionSpec(*spec.sharding.spec))
    with jax.enable_x64(True):
        zeros = jnp.zeros(spec.shape, spec.dtype, out_sharding=sharding)
    return varying_as(zeros, spec)

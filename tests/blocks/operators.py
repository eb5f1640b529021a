"""Faults of transformers: each operator makes a healthy model sick, or changes it without harm.

`make()` returns `(loss, params, args)`, to be called as `loss(params, *args)`. `kinds` are the
findings that are right of it: one of them is a detection, any other kind is a false one; `()` is a
variant that does no harm, of which there is nothing to find. `where` is to be searched in the name
of a row, the path of a parameter or an operation. `prove.py` measures each claim in plain JAX.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tests.blocks.models import Task, edit, encoder, gpt, llama, train


@dataclasses.dataclass(frozen=True)
class Operator:
    """A way to change a healthy model, what is wrong of the result, and where."""

    name: str
    make: Callable[[], Task]
    kinds: tuple[str, ...] = ()
    where: str = ""
    base: Callable[[], Task] | None = None  # the healthy model beside which it is measured


def _edited(task: Task, *edits: tuple[str, Callable[[jax.Array], jax.Array]]) -> Task:
    loss, params, args = task
    for pattern, change in edits:
        params = edit(params, pattern, change)
    return loss, params, args


def _gpt() -> Task:
    return gpt(0)


def _encoder() -> Task:
    return encoder(0)


def _llama() -> Task:
    return llama(0)


def _one_value(w: jax.Array) -> jax.Array:
    return 0.5 * jax.random.normal(jax.random.key(5), w.shape)


def _step(x: jax.Array) -> jax.Array:
    return (x > 0).astype(x.dtype)


def _same_heads(axis: int, heads: int = 4) -> Callable[[jax.Array], jax.Array]:
    """Each head of a [width, width] kernel as the first."""

    def change(w):
        width = w.shape[axis] // heads
        first = jax.lax.slice_in_dim(w, 0, width, axis=axis)
        return jnp.concatenate([first] * heads, axis)

    return change


def _of_first_row(w: jax.Array) -> jax.Array:
    return jnp.broadcast_to(w[:1], w.shape)


_FAULTS = (
    Operator(
        "query_zero",
        lambda: _edited(gpt(0), (r"block_1/attention/query/kernel", jnp.zeros_like)),
        ("dead_gradient",),
        r"block_1\W+attention\W+(key|query)",
        _gpt,
    ),
    Operator(
        "key_zero_everywhere",
        lambda: _edited(llama(0), (r"key$", jnp.zeros_like)),
        ("dead_gradient",),
        r"blocks\W+\d\W+(key|query)",
        _llama,
    ),
    Operator(
        "query_and_key_zero",
        lambda: _edited(encoder(0), (r"blocks/2/(query|key)/kernel", jnp.zeros_like)),
        ("dead_gradient",),
        r"blocks\W+2\W+(key|query)",
        _encoder,
    ),
    Operator(
        "value_zero",
        lambda: _edited(gpt(0), (r"attention/value/kernel", jnp.zeros_like)),
        ("dead_gradient",),
        r"attention\W+(value|out|query|key)",
        _gpt,
    ),
    Operator(
        "value_constant",
        lambda: _edited(encoder(0), (r"value/kernel", jnp.zeros_like), (r"value/bias", _one_value)),
        ("dead_gradient", "vanishing", "update_ratio"),
        r"value|out|query|key",
        _encoder,
    ),
    Operator(
        "query_frozen",
        lambda: gpt(0, frozen="query"),
        ("dead_gradient",),
        r"query|stop_gradient",
        _gpt,
    ),
    Operator(
        "key_frozen",
        lambda: llama(0, frozen="key"),
        ("dead_gradient",),
        r"key|stop_gradient",
        _llama,
    ),
    Operator(
        "scores_not_scaled",
        lambda: gpt(0, qk_std=0.25, scaled=False),
        ("saturated",),
        r"attention|softmax|exp",
        lambda: gpt(0, qk_std=0.25),
    ),
    Operator(
        "scores_times_50",
        lambda: encoder(0, score_gain=50.0),
        ("saturated", "exploding", "update_ratio"),
        r"query|key|softmax|exp",
        _encoder,
    ),
    Operator(
        "gain_zero_everywhere",
        lambda: _edited(gpt(0), (r"block_\d/norm_./scale", jnp.zeros_like)),
        ("dead_gradient", "norm", "dead_units"),
        r"norm_|attention|expand|contract",
        _gpt,
    ),
    Operator(
        "gain_zero_in_one_block",
        lambda: _edited(llama(0), (r"blocks/1/norm_1", jnp.zeros_like)),
        ("dead_gradient", "norm"),
        r"blocks\W+1\W+(norm_1|query|key|value|out)",
        _llama,
    ),
    Operator(
        "gain_zero_after_a_skip",
        lambda: _edited(encoder(0), (r"blocks/1/norm_2/gain", jnp.zeros_like)),
        ("dead_gradient", "norm", "dead_units", "exploding", "forward_drift", "rank_collapse"),
        r"blocks\W+[012]\W|embed|position",
        _encoder,
    ),
    Operator(
        "gain_tenfold",
        lambda: _edited(llama(0, std=None, embedding_std=1.0), (r"norm_", lambda w: 10 * w)),
        ("saturated", "forward_drift", "exploding"),
        r"norm_|softmax|exp|query|key",
        lambda: llama(0, std=None, embedding_std=1.0),
    ),
    Operator(
        "epsilon_10",
        lambda: llama(0, epsilon=10.0),
        ("norm", "vanishing", "update_ratio", "dead_gradient"),
        r"norm|rsqrt|mean|add",
        _llama,
    ),
    Operator(
        "epsilon_10_linen",
        lambda: gpt(0, epsilon=10.0),
        ("norm", "vanishing", "update_ratio", "dead_gradient"),
        r"norm|rsqrt|add",
        _gpt,
    ),
    Operator(
        "norm_removed_large_std",
        lambda: gpt(0, normed=False, std=0.3, embedding_std=1.0, blocks=4),
        ("exploding", "forward_drift", "saturated", "rank_collapse", "update_ratio", "vanishing"),
        r"block_|softmax|exp",
        lambda: gpt(0, blocks=4),
    ),
    Operator(
        "norm_removed_encoder",
        lambda: encoder(0, normed=False, std=0.3, blocks=4),
        (
            "exploding",
            "forward_drift",
            "saturated",
            "rank_collapse",
            "update_ratio",
            "dead_gradient",
        ),
        r"blocks|softmax|exp",
        lambda: encoder(0, blocks=4),
    ),
    Operator(
        "feed_forward_zero",
        lambda: _edited(gpt(0), (r"block_1/(expand|contract)/kernel", jnp.zeros_like)),
        ("dead_gradient", "dead_units"),
        r"block_1\W+(norm_2|expand|contract)",
        _gpt,
    ),
    Operator(
        "feed_forward_ones",
        lambda: _edited(llama(0), (r"gate|up|down", jnp.ones_like)),
        (
            "symmetry",
            "forward_drift",
            "rank_collapse",
            "vanishing",
            "exploding",
            "update_ratio",
            "dead_gradient",
        ),
        r"gate|up|down",
        _llama,
    ),
    Operator(
        "heads_alike",
        lambda: _edited(
            encoder(0),
            (r"(query|key|value)/kernel", _same_heads(1)),
            (r"out/kernel", _same_heads(0)),
        ),
        ("symmetry", "rank_collapse"),
        r"query|key|value|out",
        _encoder,
    ),
    Operator(
        "skip_times_0.02",
        lambda: gpt(0, skip=0.02, blocks=8),
        ("rank_collapse", "exploding", "vanishing"),
        r"block_",
        lambda: gpt(0, blocks=8),
    ),
    Operator(
        "skip_times_4",
        lambda: llama(0, skip=4.0, blocks=4),
        ("forward_drift", "vanishing", "exploding", "update_ratio"),
        r"blocks|add|mul",
        lambda: llama(0, blocks=4),
    ),
    Operator(
        "skip_cut",
        lambda: llama(0, skip=0.0, blocks=8),
        ("rank_collapse", "exploding", "forward_drift", "update_ratio"),
        r"blocks",
        lambda: llama(0, blocks=8),
    ),
    Operator(
        "skip_cut_encoder",
        lambda: encoder(0, skip=0.0, blocks=4),
        ("rank_collapse", "vanishing", "exploding", "update_ratio", "dead_units"),
        r"blocks",
        lambda: encoder(0, blocks=4),
    ),
    Operator(
        "sigmoid_saturated",
        lambda: encoder(0, activation=jax.nn.sigmoid, ffn_std=4.0),
        ("saturated",),
        r"expand|logistic|sigmoid|norm_1",
        lambda: encoder(0, activation=jax.nn.sigmoid),
    ),
    Operator(
        "hard_step",
        lambda: encoder(0, activation=_step),
        ("dead_gradient",),
        r"expand|gt",
        _encoder,
    ),
    Operator(
        "relu_dead",
        lambda: _edited(encoder(0), (r"blocks/1/expand/bias", lambda w: jnp.full_like(w, -10.0))),
        ("dead_units", "dead_gradient"),
        r"blocks\W+1\W+(expand|contract)|max|relu",
        _encoder,
    ),
    Operator(
        "empty_example_float16_mask",
        lambda: encoder(0, lengths="empty_example", score_dtype=jnp.float16),
        ("non_finite",),
        r"softmax|exp|sub|max|query|key|blocks\W+0",
        _encoder,
    ),
    Operator(
        "strict_causal_float16_mask",
        lambda: gpt(0, strict=True, score_dtype=jnp.float16),
        ("non_finite",),
        r"softmax|exp|sub|max|attention|block_0",
        _gpt,
    ),
    Operator(
        "scores_overflow_float16",
        lambda: _edited(
            llama(0, score_dtype=jnp.float16, scaled=False, std=None, embedding_std=1.0),
            (r"query|key", lambda w: 100 * w),
        ),
        ("non_finite",),
        r"softmax|exp|sub|max|query|key|blocks\W+0|convert",
        lambda: llama(0, std=None, embedding_std=1.0),
    ),
    Operator(
        "float16_underflow",
        lambda: gpt(0, dtype=jnp.float16, batch=64, std=0.005, head_std=0.005),
        ("precision", "dead_gradient"),
        r"block_|convert|head",
        lambda: gpt(0, batch=64, std=0.005, head_std=0.005),
    ),
    Operator(
        "head_std_1",
        lambda: llama(0, head_std=1.0),
        ("saturated", "exploding", "update_ratio"),
        r"head|softmax|exp|logits",
        _llama,
    ),
    Operator(
        "embedding_std_10",
        lambda: gpt(0, embedding_std=10.0),
        ("update_ratio", "vanishing"),
        r"embed|block_0|norm_1",
        _gpt,
    ),
    Operator(
        "padding_mask_inverted",
        lambda: encoder(0, lengths="one_pad", inverted=True),
        ("dead_gradient", "rank_collapse", "saturated"),
        r"query|key|softmax|exp|attention",
        lambda: encoder(0, lengths="one_pad"),
    ),
    Operator(
        "double_softmax",
        lambda: gpt(0, loss="double_softmax"),
        ("double_softmax", "vanishing"),
        r"softmax|exp|head|loss",
        _gpt,
    ),
    Operator(
        "double_softmax_encoder",
        lambda: encoder(0, loss="double_softmax"),
        ("double_softmax", "vanishing"),
        r"softmax|exp|head|loss",
        _encoder,
    ),
    Operator(
        "tokens_times_0",
        lambda: gpt(0, token_scale=0.0),
        ("dead_gradient", "rank_collapse"),
        r"embed|mul",
        _gpt,
    ),
    Operator(
        "position_times_100",
        lambda: gpt(0, position_scale=100.0),
        ("rank_collapse", "update_ratio", "vanishing"),
        r"position|embed",
        _gpt,
    ),
    Operator(
        "log_of_underflown_softmax",
        lambda: llama(0, loss="log_of_softmax", head_std=1.0, temperature=0.02),
        ("non_finite",),
        r"log|softmax|exp|head",
        _llama,
    ),
    Operator(
        "embedding_rows_alike",
        lambda: _edited(llama(0), (r"embed", _of_first_row)),
        ("rank_collapse", "vanishing", "dead_gradient", "update_ratio"),
        r"embed|blocks\W+0",
        _llama,
    ),
    Operator(
        "equal_tokens",
        lambda: llama(0, data="equal"),
        ("rank_collapse", "vanishing", "dead_gradient", "update_ratio"),
        r"embed|blocks",
        _llama,
    ),
)

_VARIANTS = (
    Operator("gpt", _gpt),
    Operator("gpt_other_seed", lambda: gpt(3)),
    Operator("gpt_wide", lambda: gpt(1, width=128)),
    Operator("gpt_deep", lambda: gpt(2, blocks=8)),
    Operator("gpt_lecun", lambda: gpt(1, std=None, head_std=None, embedding_std=64**-0.5)),
    Operator("gpt_tied", lambda: gpt(1, tied=True)),
    Operator("gpt_label_smoothing", lambda: gpt(1, loss="smoothed")),
    Operator("gpt_dropout", lambda: gpt(1, dropout=0.1)),
    Operator("gpt_bfloat16", lambda: gpt(1, dtype=jnp.bfloat16)),
    Operator("gpt_layer_scale", lambda: gpt(1, layer_scale=0.1)),
    Operator("gpt_causal_float16_mask", lambda: gpt(1, score_dtype=jnp.float16)),
    Operator("encoder", _encoder),
    Operator("encoder_gelu", lambda: encoder(1, activation=jax.nn.gelu)),
    Operator("encoder_pre_norm", lambda: encoder(1, pre_norm=True)),
    Operator("encoder_rms_norm", lambda: encoder(1, rms=True)),
    Operator("encoder_trained", lambda: train(encoder(1), 50, 3e-3)),
    Operator("llama", _llama),
    Operator("llama_lecun", lambda: llama(1, std=None, head_std=None, embedding_std=1.0)),
    Operator(
        "llama_tied_scaled",
        lambda: llama(1, tied=True, embedding_std=0.02, token_scale=8.0),
    ),
    Operator("llama_rezero", lambda: llama(1, layer_scale=0.0)),
    Operator("llama_bfloat16", lambda: llama(1, dtype=jnp.bfloat16)),
    Operator("llama_scanned", lambda: llama(1, scan=True)),
    Operator("llama_trained", lambda: train(llama(1), 50)),
)

OPERATORS = {operator.name: operator for operator in (*_FAULTS, *_VARIANTS)}

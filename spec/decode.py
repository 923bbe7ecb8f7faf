"""Decoding with a KV cache: what is appended, what is read, and that any chunking gives the rows of one pass."""

import torch
from sympy import IndexedBase, Sum, exp, log, symbols

from properties import agree, claim, exactly, example, given, refuted, rejects, st
from properties.strategies.caches import Step, steps

NOT_NUMBERS = (float("nan"), float("inf"), 1e4, -1e4)


def each_sequence(step):
    return range(len(step.lens))


# -------------------------------------------------------------------------------------------------- what is written

@claim(
    rows="003-017 002-078",
    formula=r"K'_{\ell + t} = k^{\text{new}}_t, \qquad V'_{\ell + t} = v^{\text{new}}_t, \qquad 0 \le t < T",
    if_fails="rows are written at another sequence's length, one too early or late, or a ring wraps before it is full",
)
@given(step=steps())
def new_rows_are_appended(impl, step):
    """New keys and values stand in the cache bit for bit, behind the rows that their sequence held, and in order."""
    found, (k, v) = impl.decode(*step, **step.options), step.appended()
    new = step.rows(0, step.n_new)
    agree(found.k_cache.transpose(1, 2)[new], k.transpose(1, 2)[new])
    agree(found.v_cache.transpose(1, 2)[new], v.transpose(1, 2)[new])


@claim(
    rows="003-017 003-015",
    formula=r"K'_j = K_j, \quad V'_j = V_j \qquad \text{for}\ j < \ell\ \text{and}\ j \ge \ell + T",
    if_fails="old rows are moved, or slots behind the new ones are cleared or written to",
)
@given(step=steps())
def nothing_else_in_the_cache_changes(impl, step):
    """A step leaves the rows that a sequence held, and the slots behind the new ones, as they were, bit for bit."""
    found, others = impl.decode(*step, **step.options), ~step.rows(0, step.n_new)
    agree(found.k_cache.transpose(1, 2)[others], step.k_cache.transpose(1, 2)[others])
    agree(found.v_cache.transpose(1, 2)[others], step.v_cache.transpose(1, 2)[others])


@claim(
    rows="003-015 002-082",
    formula=r"\ell + T > \text{capacity} \implies \text{an error}",
    if_fails="the start is clamped so that old rows are overwritten, or rows are written past the end of the cache",
)
@given(step=steps(), more=st.integers(1, 3))
def too_many_rows_are_refused(impl, step, more):
    """New rows that do not fit into the cache are refused, whichever sequence they belong to."""
    lens = (*step.lens[:-1], step.capacity - step.n_new + more)
    rejects(lambda: impl.decode(*step.with_(lens=lens), **step.options), match="cache|capacity|lens|fit")


# ----------------------------------------------------------------------------------------------------- what is read

@claim(
    rows="003-015 002-078 001-178 001-058",
    formula=r"\operatorname{decode}(q, k, v; K, V) = \operatorname{attention}(q, [K_{<\ell}; k], [V_{<\ell}; v])"
            r"\quad\text{(causal)}",
    if_fails="the new rows are not read, rows behind the length are, or causal is aligned with the first row",
    corrects="old_rows_are_enough",
)
@given(step=steps())
def decoding_is_attention_over_the_cache(impl, step):
    """A step gives causal attention over the rows held and the new ones: what is cached need not be computed again."""
    found = impl.decode(*step, **step.options).out
    for b in each_sequence(step):
        x = step.attended(b)
        agree(found[b:b + 1], impl.attention(*x, **x.options).out)


def scores_of_the_first_sequence(step):
    if step.n_new > 1 or not step.lens[0]:
        return None
    x, n = step.attended(0), step.lens[0]
    s, v = x.scores()[0, 0, 0].tolist(), x.v[0, 0, :, 0].tolist()
    return {"s": s[:n], "v": v[:n], "a": s[n], "w": v[n], "n": n}


@decoding_is_attention_over_the_cache.proof(tie=scores_of_the_first_sequence)
def _():
    """For n rows held, any n, and a new row of score a and value w: its mass joins the mass of the others."""
    j, n = symbols("j n", integer=True, positive=True)
    s, v, a, w = IndexedBase("s", real=True), IndexedBase("v", real=True), *symbols("a w", real=True)
    mass = Sum(exp(s[j]), (j, 1, n))
    held, weight = Sum(exp(s[j]) * v[j], (j, 1, n)) / mass, exp(log(mass))
    whole = (Sum(exp(s[j]) * v[j], (j, 1, n)) + exp(a) * w) / (mass + exp(a))
    return (weight * held + exp(a) * w) / (weight + exp(a)), whole


@refuted(rows="002-078", formula=r"\operatorname{decode}(q, k, v; K, V) = "
                                 r"\operatorname{attention}(q, K_{<\ell}, V_{<\ell})")
@example(step=Step(*(torch.full((1, 1, 1, 1), x, dtype=torch.float64) for x in (0, 0, 2)),
                   *(torch.zeros(1, 1, 2, 1, dtype=torch.float64) for _ in range(2)), (1,)))
@given(step=steps(most_new=1, least_held=1, batches=(1,)))
def old_rows_are_enough(impl, step):
    """A step reads the cache and then appends to it: the new token attends to those before it."""
    x, n = step.attended(0), step.lens[0]
    agree(impl.decode(*step, **step.options).out,
          impl.attention(x.q, x.k[:, :, :n], x.v[:, :, :n], **step.options).out)


@claim(
    rows="002-073",
    formula=r"T = 1:\quad \operatorname{decode}(q, k, v; K, V) = "
            r"\operatorname{softmax}\bigl(q\,[K_{<\ell}; k]^\top / \sqrt d\bigr)\,[V_{<\ell}; v]",
    if_fails="a causal mask that is aligned with the first row lets the query see the first key only",
)
@given(step=steps(most_new=1))
def one_new_row_needs_no_mask(impl, step):
    """A single new row sees all that is cached: only its own query is needed, and no mask."""
    found = impl.decode(*step, **step.options).out
    for b in each_sequence(step):
        x = step.attended(b, causal=False)
        agree(found[b:b + 1], impl.attention(*x, **x.options).out)


@claim(
    rows="003-015 001-178",
    formula=r"\operatorname{decode}(q, k, v; K, V)\ \text{does not depend on}\ K_j, V_j\ \text{for}\ j \ge \ell + T",
    if_fails="whole pages or all slots are read and given weight 0 (0 NaN = NaN), or a page is read at a boundary",
)
@given(step=steps(spare=(1, 3, 17)), content=st.sampled_from(NOT_NUMBERS))
def slots_behind_the_length_are_not_read(impl, step, content):
    """What an earlier sequence left behind the new rows, NaN and infinity included, leaves no trace in the output."""
    exactly(impl.decode(*step.with_behind(content), **step.options).out, impl.decode(*step, **step.options).out)


# ------------------------------------------------------------------------------------------- chunks, batches, again

@claim(
    rows="002-074 001-179 002-076 002-119",
    formula=r"\operatorname{decode}([q_1 .. q_T]) = [\operatorname{decode}(q_1); \dots; \operatorname{decode}(q_T)]",
    if_fails="rows of a chunk see each other whatever their order, or only the first of them is written",
)
@given(step=steps())
def a_chunk_is_its_steps(impl, step):
    """T new rows at once give what T steps of one row give, in the outputs and in the caches."""
    whole, caches = impl.decode(*step, **step.options), (step.k_cache, step.v_cache)
    for t in range(step.n_new):
        q, k_new, v_new, _, _, lens = step.of_new_row(t)
        one = impl.decode(q, k_new, v_new, *caches, lens, **step.options)
        agree(one.out, whole.out[:, :, t:t + 1])
        caches = one.k_cache, one.v_cache
    agree(caches[0], whole.k_cache)
    agree(caches[1], whole.v_cache)


@claim(
    rows="002-023 001-178",
    formula=r"\operatorname{decode}(q, K; \ell)_b = \operatorname{decode}(q_b, K_b; \ell_b)",
    if_fails="the length, or the cache, of the first sequence is used for all",
)
@given(step=steps(batches=(2, 3)))
def sequences_of_different_length_do_not_meet(impl, step):
    """Every sequence of a batch is decoded as if it were alone, with its own length and its own cache."""
    whole = impl.decode(*step, **step.options)
    for b in each_sequence(step):
        alone = impl.decode(*step.alone(b), **step.options)
        agree(alone.out, whole.out[b:b + 1])
        agree(alone.k_cache, whole.k_cache[b:b + 1])


@claim(
    rows="003-017",
    formula=r"\operatorname{decode}(q, k, v; K', V'; \ell) = \operatorname{decode}(q, k, v; K, V; \ell)",
    if_fails="the kernel keeps count of its own, advances the caller's lengths, or returns a buffer that it uses again",
)
@given(step=steps())
def the_same_step_again_changes_nothing(impl, step):
    """The caller alone keeps count: with the same lengths the same rows are written again, to the same effect."""
    q, k_new, v_new, k_cache, v_cache, lens = step
    first = impl.decode(q, k_new, v_new, k_cache, v_cache, lens, **step.options)
    exactly(lens.double(), torch.tensor(step.lens).double())
    again = impl.decode(q, k_new, v_new, first.k_cache, first.v_cache, lens, **step.options)
    exactly(again.out, first.out)
    exactly(again.k_cache, first.k_cache)

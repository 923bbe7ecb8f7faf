"""Arrays of balls: object arrays of `flint.arb`, and the few functions of them that enclosures are made of."""

import math

import numpy as np

try:
    from flint import arb, arb_mat, ctx
    ctx.prec = 128
    AVAILABLE = True
except ImportError:
    arb = arb_mat = None
    AVAILABLE = False


def array(shape, items):
    """An object array of a list of balls."""
    result = np.empty(len(items), dtype=object)
    result[:] = items
    return result.reshape(shape)


def is_hidden(x):
    """True for None and -inf, which mark a hidden key."""
    return x is None or (not x.is_finite() and x < 0)


def matmul(a, b):
    """The product of two object matrices."""
    left, right = (arb_mat(*x.shape, list(x.flat)) for x in (a, b))
    return array((a.shape[0], b.shape[1]), (left * right).entries())


def _softmax_row(scores):
    """(weights, lse) of a list of balls in which None, or -inf, marks a hidden key."""
    seen = [x for x in scores if not is_hidden(x)]
    if not seen:
        return [arb(0)] * len(scores), arb("-inf")
    top = max(seen, key=lambda x: float(x.mid()))
    terms = [arb(0) if is_hidden(x) else (x - top).exp() for x in scores]
    total = sum(terms, arb(0))
    return [t / total for t in terms], top + total.log()


def softmax_rows(x):
    """(weights, lse) over the last dim of an object array."""
    rows = [_softmax_row(list(row)) for row in x.reshape(-1, x.shape[-1])] if x.size else []
    if not rows:
        return x.copy(), array(x.shape[:-1], [arb("-inf")] * math.prod(x.shape[:-1]))
    return (array(x.shape, [w for weights, _ in rows for w in weights]), array(x.shape[:-1], [lse for _, lse in rows]))


def scale_of(a):
    """The scale of the scores, D ** -0.5 by default."""
    d = a["q"].shape[-1]
    if a.get("scale") is not None:
        return arb(float(a["scale"]))
    return arb(d).rsqrt() if d else arb(1)


def elementwise(method, x):
    """A method of `arb` by name, such as "exp", of every element."""
    return array(x.shape, [getattr(item, method)() for item in x.flat])


def balls_of(x):
    """Balls of the numbers of an array."""
    return array(np.shape(x), [arb(float(item)) for item in np.ravel(x)])

"""Attest's machinery: what makes a claim checkable.  A spec file needs these names and nothing else:

    from properties import agree, attention_inputs, claim, exactly, given, refuted, rows

This module is imported lazily where only a part is needed (`properties.report` works without torch).
"""

from importlib import import_module

_WHERE = {
    "claims": ("claim", "refuted", "statistical"),
    "relations": ("agree", "at_most", "costs", "exactly", "plausible", "rejects", "tensor"),
    "results": ("Result", "ClaimError"),
    "memory": ("LAYOUTS", "Layout", "laid"),
    "strategies.plain": ("filled", "plain_inputs"),
    "strategies": ("HEADS", "Inputs", "arrays", "attention_inputs", "integer_rows", "keeps", "lengths", "masked_rows",
                   "permutations_of", "reach", "rows", "rows_and_permutation", "shifts"),
    "numerics.statistics": ("seed_from", "second_moment_design"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULE) + ["assume", "example", "given", "st"]


def __getattr__(name: str):
    if name in _MODULE:
        return getattr(import_module(f".{_MODULE[name]}", __name__), name)
    if name in ("assume", "example", "given"):
        return getattr(import_module("hypothesis"), name)
    if name == "st":
        return import_module("hypothesis.strategies")
    raise AttributeError(f"properties has no '{name}'; it offers {', '.join(__all__)}")

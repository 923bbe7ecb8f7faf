"""Power: which claim kills which wrong implementation.

A *suspect* is an implementation that is wrong, or a placebo, in one operation; whatever else a claim calls comes from a
right one.  The kill matrix is claims x suspects: every example is drawn once and judged on every suspect still alive.
"""

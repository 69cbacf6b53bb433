"""Figures to reproduce: measured once on the same outcomes before this code was written.

By prior and curve, pairs of (mean rollouts, squared error on the {-1, +1} scale), as published in the project's method
notes; the mean of a group does not depend on the prior. How large its waves were is not recorded: its stopping figures
stand beside both of ours.
"""

from __future__ import annotations

from collections.abc import Mapping

Points = tuple[tuple[float, float], ...]

_MEANS: Points = ((2, 0.249), (4, 0.126), (8, 0.064), (16, 0.032))

OWN_ERROR: Mapping[str, float] = {
    "gp": 0.373,
    "truth + N(0, .15)": 0.067,
    "truth + N(0, .25)": 0.170,
    "constant": 0.472,
}
"""Squared error of each prior itself."""

REFERENCE: Mapping[str, Mapping[str, Points]] = {
    "gp": {
        "mean of group": _MEANS,
        "paper fusion": ((2, 0.190), (4, 0.128), (8, 0.076)),
        "paper look-ahead": ((8.0, 0.111),),
        "empirical Bayes": ((1, 0.221), (2, 0.147), (4, 0.094), (8, 0.054)),
        "EB, stop by wave, k_init 2": ((3.7, 0.092), (5.6, 0.067), (9.5, 0.041), (12.4, 0.033)),
        "EB, stop one by one, k_init 2": ((3.7, 0.092), (5.6, 0.067), (9.5, 0.041), (12.4, 0.033)),
    },
    "truth + N(0, .15)": {
        "mean of group": _MEANS,
        "paper fusion": ((2, 0.097), (4, 0.069), (8, 0.047)),
        "paper look-ahead": ((4.8, 0.051),),
        "empirical Bayes": ((1, 0.084), (2, 0.053), (4, 0.043), (8, 0.033)),
        "EB, stop by wave, k_init 2": ((2.0, 0.053), (3.9, 0.043), (7.5, 0.033)),
        "EB, stop one by one, k_init 2": ((2.0, 0.053), (3.9, 0.043), (7.5, 0.033)),
    },
    "truth + N(0, .25)": {
        "mean of group": _MEANS,
        "paper fusion": ((2, 0.142), (4, 0.102), (8, 0.065)),
        "paper look-ahead": ((5.8, 0.086),),
        "empirical Bayes": ((1, 0.131), (2, 0.101), (4, 0.074), (8, 0.047)),
        "EB, stop by wave, k_init 2": ((2.5, 0.090), (3.9, 0.073), (7.0, 0.054), (9.8, 0.044)),
        "EB, stop one by one, k_init 2": ((2.5, 0.090), (3.9, 0.073), (7.0, 0.054), (9.8, 0.044)),
    },
    "constant": {
        "mean of group": _MEANS,
        "paper fusion": ((2, 0.186), (4, 0.136), (8, 0.076)),
        "paper look-ahead": ((9.9, 0.106),),
        "empirical Bayes": ((1, 0.265), (2, 0.161), (4, 0.099), (8, 0.056)),
        "EB, stop by wave, k_init 2": ((4.0, 0.094), (6.0, 0.067), (10.0, 0.041)),
        "EB, stop one by one, k_init 2": ((4.0, 0.094), (6.0, 0.067), (10.0, 0.041)),
    },
}

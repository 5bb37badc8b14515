"""The choice of a scheme for each matrix that changes the outputs least within a size.

An integer program: each matrix has one scheme, the bytes add up to at most the budget, and the sum
of the changes is the smallest. Changes of several matrices are taken to add up, which holds while
they are small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


def assign(
    costs: Mapping[str, Sequence[float]], sizes: Mapping[str, Sequence[int]], *, most: int
) -> dict[str, int] | None:
    """The number of the scheme that each matrix gets; None where no choice fits.

    Args:
        costs: change of the outputs, by matrix and scheme.
        sizes: bytes, by matrix and scheme.
        most: bytes of all matrices together.
    """
    names = list(costs)
    cost = np.concatenate([costs[name] for name in names])
    size = np.concatenate([sizes[name] for name in names]).astype(float)
    owner = np.repeat(np.arange(len(names)), [len(costs[name]) for name in names])
    one_each = (owner[None] == np.arange(len(names))[:, None]).astype(float)
    found = milp(
        cost / max(cost.max(), 1e-30),
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(size[None] / size.sum(), -np.inf, most / size.sum()),
        ],
        options={"mip_rel_gap": 1e-6},
    )
    if found.x is None:
        return None
    taken = np.flatnonzero(found.x > 0.5)
    starts = np.concatenate([[0], np.cumsum([len(costs[name]) for name in names])])
    return {names[owner[place]]: int(place - starts[owner[place]]) for place in taken}

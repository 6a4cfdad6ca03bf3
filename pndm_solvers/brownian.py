"""One Brownian path for all the steps of a run, whatever its grid.

The path B(v) starts at B(0) = 0. Its clock is v = (α/σ)², the signal-to-noise ratio: 0 at pure
noise and without bound towards clean data. Two runs with one seed see the same path at every
level, so a finer run refines a coarser one.

Lévy's construction defines the path without a memory. Given B at the ends of an interval
[a, b], B at a point m between them is the linear interpolant plus an independent normal of
variance (m - a)(b - m)/(b - a). Hence B is a sum of hats, one for each interval of a binary tree
over [0, ∞), each with a normal of its own. Where b = ∞ the hat stays level beyond m.

The tree halves *the count of floats* between a and b, not the distance. The first eleven halvings
find the octave of v, so every scale of v costs the same.

References
----------
P. Lévy, Processus stochastiques et mouvement brownien, 1948: the construction.
X. Li et al., Scalable Gradients for Stochastic Differential Equations, AISTATS 2020: as a tree of seeds.
A. Jelinčič, J. Foster, P. Kidger, Single-seed generation of Brownian paths, arXiv:2405.06464: exact leaves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

__all__ = ["brownian_increment"]

# Non-negative floats are ordered as their bits are, so bits count floats: from 0.0 to infinity.
_INFINITY = 0x7FF0_0000_0000_0000

# 11 halvings for the exponent and 20 for the fraction. The path is exact between levels that lie further apart than
# 2^-20 of themselves. Each further halving would cost up to two draws in every increment.
_HALVINGS = 31

# The last word of a path's key. The keys of `noise` end in their row + 1, which never comes near.
_PATH = 0xFFFF_FFFF


def brownian_increment(
    seed: int,
    sample: int,
    fall: int,
    shape: Sequence[int],
    start: float,
    end: float,
    drawn: dict[int, np.ndarray] | None = None,
) -> np.ndarray:
    """The increment z = (B(end) - B(start)) / √(end - start), of law N(0, I).

    The increments √(end - start)·z of adjoining intervals add up, to rounding. Those of disjoint
    intervals are independent. z is a function of the arguments alone, whatever was drawn before.

    Parameters
    ----------
    seed, sample, fall:
        The path's address: whole numbers, the last two below 2³². Different addresses have
        independent paths. `fall` counts how often a run went back to a noisier level.
    shape:
        Shape of z. The entries are independent paths, and a smaller shape holds the first ones.
    start, end:
        Two values of v = (α/σ)², with 0 <= start < end < ∞.
    drawn:
        Normals of this path, by their nodes, from an earlier call; it then holds those of this one. An adjoining
        interval shares more than half of them.

    Returns
    -------
    A float64 array of `shape`. It takes 30 to 60 draws of that shape, fewer for shorter steps.

    Raises
    ------
    ValueError:
        Where start and end are not such values.

    Notes
    -----
    Levels closer than 2^-20 of themselves may share a leaf of the tree, where the path is smooth.
    A step within one leaf still has law N(0, I), but adjoining steps there are not independent,
    and B(end) - B(start) is shorter than √(end - start)·z.
    """
    if not 0 <= start < end < math.inf:
        raise ValueError(f"start is {start!r} and end {end!r}; they must be (α/σ)², with 0 <= start < end < ∞")
    weights = _weights(start, end)
    length = math.hypot(*weights.values())  # √(end - start), except within one leaf
    path = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(sample, fall, _PATH)))
    generator, beginning = np.random.Generator(path), path.state
    total, scaled = np.zeros(shape), np.empty(shape)
    earlier: dict[int, np.ndarray] = {}
    if drawn is not None:
        earlier = drawn.copy()
        drawn.clear()
    for node, weight in weights.items():
        if abs(weight) > 2**-53 * length:  # the rest are lost in rounding: most hats of distant octaves
            normal = earlier.get(node)
            if normal is None:
                # Each node has 2^128 numbers of the path's stream to itself. `path.jumped(node)` reaches the same ones,
                # but makes a new Philox first, which costs five times as much.
                path.state = beginning
                path.advance(node << 128)
                normal = generator.standard_normal(out=scaled if drawn is None else np.empty(shape))
            if drawn is not None:
                drawn[node] = normal
            total += np.multiply(normal, weight / length, out=scaled)
    return total


@lru_cache(maxsize=256)  # all samples of a batch take the same steps
def _weights(start: float, end: float) -> dict[int, float]:
    """B(end) - B(start) as a sum of independent standard normals: the weight of each, by its node.

    A node is named after the float in its middle, by that float's bits.
    """
    weights: dict[int, float] = {}
    for v, sign in ((start, -1.0), (end, 1.0)):
        low, high = 0, _INFINITY
        for _ in range(_HALVINGS):
            middle = (low + high) // 2
            a, m, b = _float(low), _float(middle), _float(high)
            # Differences of levels, not of hats: these are exact for levels that lie close together.
            rise = (_clip(end, a, m) - _clip(start, a, m)) / (m - a)
            drop = (_clip(end, m, b) - _clip(start, m, b)) / (b - m)
            weights[middle] = _deviation(a, m, b) * (rise - drop)
            low, high = (middle, high) if m <= v else (low, middle)
        # A leaf is split once more, at v itself. So B(v) is exact at v, and not at a float nearby.
        leaf = (low + high) // 2
        weights[leaf] = weights.get(leaf, 0.0) + sign * _deviation(_float(low), v, _float(high))
    return weights


def _deviation(a: float, m: float, b: float) -> float:
    # Of B(m) where B(a) and B(b) are given. In this form b may be infinite and m - a subnormal.
    return math.sqrt(m - a) * math.sqrt(1 - (m - a) / (b - a))


def _clip(v: float, low: float, high: float) -> float:
    return min(max(v, low), high)


def _float(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<q", bits))[0]

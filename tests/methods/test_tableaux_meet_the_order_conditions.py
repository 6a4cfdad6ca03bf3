"""A tableau has the order that the conditions of all rooted trees give it, and refuses numbers that give none."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE, assert_refused

from pndm_solvers import TABLEAUX, ButcherTableau
from pndm_solvers.methods.runge_kutta import RK4

# `ButcherTableau.order` is derived from the conditions up to here.
HIGHEST = 4


@cache
def trees(nodes):
    """All rooted trees with that many nodes; a tree is the sorted tuple of the subtrees at its root."""
    if nodes == 1:
        return {()}
    sizes = range(1, nodes)
    return {tuple(sorted((*rest, branch))) for n in sizes for branch in trees(n) for rest in trees(nodes - n)}


def nodes_of(tree):
    return 1 + sum(map(nodes_of, tree))


def density(tree):
    """γ: the product, over all nodes, of how many nodes stand at or above it."""
    return nodes_of(tree) * math.prod(map(density, tree))


def stage_weights(tableau, tree):
    """Φ_i = Π over the branches at the root of Σ_j a_ij·Φ_j(branch), for each stage i."""
    branches = [stage_weights(tableau, branch) for branch in tree]
    return [
        math.prod(sum(a * phi for a, phi in zip(row, branch, strict=False)) for branch in branches) for row in tableau.a
    ]


def meets(tableau, tree):
    """Whether Σ b_i·Φ_i = 1/γ (Butcher 1963; Hairer, Nørsett and Wanner, Solving ODEs I, theorem II.2.13)."""
    return sum(b * phi for b, phi in zip(tableau.b, stage_weights(tableau, tree), strict=True)) == 1 / Fraction(
        density(tree)
    )


def order_by_trees(tableau):
    """The largest p such that all trees of up to p nodes are met; an explicit method of s stages has p ≤ s."""
    order = 0
    while order < len(tableau.b) and all(meets(tableau, tree) for tree in trees(order + 1)):
        order += 1
    return order


def shifted(tableau):
    """Tableaux that are still consistent: in one row of a, or in b, a thousandth moves from one entry to another."""

    def moves(row):
        for i in range(len(row)):
            for j in range(len(row)):
                if i != j:
                    yield [w + Fraction((k == i) - (k == j), 1000) for k, w in enumerate(row)]

    for b in moves(tableau.b):
        yield ButcherTableau("shifted", tableau.c, tableau.a, b)
    for stage, row in enumerate(tableau.a):
        for a in moves(row):
            yield ButcherTableau("shifted", tableau.c, (*tableau.a[:stage], a, *tableau.a[stage + 1 :]), tableau.b)


KNOWN = {
    "bogacki-shampine": (BOGACKI_SHAMPINE, 3),
    "kutta3": (ButcherTableau("kutta3", [0, "1/2", 1], [[], ["1/2"], [-1, 2]], ["1/6", "2/3", "1/6"]), 3),
    "kutta 3/8": (
        ButcherTableau(
            "3/8",
            [0, "1/3", "2/3", 1],
            [[], ["1/3"], ["-1/3", 1], [1, -1, 1]],
            ["1/8", "3/8", "3/8", "1/8"],
        ),
        4,
    ),
    # Each of these breaks one order condition. All conditions of the orders below hold.
    "Σ b·c = 1/2": (ButcherTableau("1", [0, "1/2", 1], [[], ["1/2"], [-1, 2]], ["1/6", "1/3", "1/2"]), 1),
    "Σ b·c = 1/2 alone": (
        ButcherTableau("1", [0, "1/2", 1], [[], ["1/2"], ["-1/3", "4/3"]], ["5/12", "1/3", "1/4"]),
        1,
    ),
    "Σ b·c² = 1/3": (ButcherTableau("2", [0, "1/2", 1], [[], ["1/2"], [0, 1]], ["1/3", "1/3", "1/3"]), 2),
    "Σ b·c³ = 1/4": (
        ButcherTableau(
            "3",
            [0, "3/4", 1, "1/2"],
            [[], ["3/4"], ["4/3", "-1/3"], [1, -1, "1/2"]],
            ["1/3", "4/3", "-1/3", "-1/3"],
        ),
        3,
    ),
    "Σ b·a·c² = 1/12": (
        ButcherTableau(
            "3",
            [0, "1/4", "3/4", "1/2"],
            [[], ["1/4"], ["-1/4", 1], ["-1/2", "3/2", "-1/2"]],
            [0, "2/3", "2/3", "-1/3"],
        ),
        3,
    ),
    "Σ b·a·a·c = 1/24": (ButcherTableau("3", RK4.c, [[], ["1/2"], [0, "1/2"], [0, "1/2", "1/2"]], RK4.b), 3),
    "Σ b·c·a·c = 1/8": (
        ButcherTableau("3", RK4.c, [[], ["1/2"], ["1/4", "1/4"], ["-1/2", "-1/2", 2]], RK4.b),
        3,
    ),
}


def test_the_trees_are_all_there_are():
    """Hairer, Nørsett and Wanner, Solving ODEs I, table II.2.1."""
    assert [len(trees(nodes)) for nodes in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize("name", TABLEAUX)
def test_a_registered_tableau_has_the_order_of_its_trees(name):
    """Also where its coefficients are shifted so that c = Σ a and Σ b = 1 still hold."""
    tableau = TABLEAUX[name]
    for candidate in (tableau, *shifted(tableau)):
        assert candidate.order == min(order_by_trees(candidate), HIGHEST) >= 1, candidate


def test_tableaux_are_registered_by_their_names():
    assert all(tableau.name == name for name, tableau in TABLEAUX.items())
    assert {name: TABLEAUX[name].order for name in ("euler", "heun", "rk4")} == {"euler": 1, "heun": 2, "rk4": 4}


@pytest.mark.parametrize("name", KNOWN)
def test_an_order_condition_that_fails_is_seen(name):
    tableau, order = KNOWN[name]
    assert tableau.order == order_by_trees(tableau) == order
    for candidate in shifted(tableau):
        assert candidate.order == min(order_by_trees(candidate), HIGHEST), candidate


def test_a_registered_tableau_with_one_coefficient_changed_is_refused():
    """A change of a thousandth in any entry breaks c = Σ a or Σ b = 1."""

    def changed(row):
        return ([w + (k == i) * Fraction(sign, 1000) for k, w in enumerate(row)] for i in range(len(row)) for sign in S)

    S = (1, -1)  # noqa: N806
    for tableau in TABLEAUX.values():
        a = tableau.a
        entries = [(c, a, tableau.b) for c in changed(tableau.c)] + [(tableau.c, a, b) for b in changed(tableau.b)]
        entries += [(tableau.c, (*a[:i], row, *a[i + 1 :]), tableau.b) for i in range(len(a)) for row in changed(a[i])]
        assert_refused(
            (lambda entry=entry: ButcherTableau("changed", *entry), ValueError, "^tableau") for entry in entries
        )


# ------------------------------------------------------------------ numbers


def test_floats_are_the_fractions_that_are_meant():
    ralston = ButcherTableau("ralston", [0, 2 / 3], [[], [2 / 3]], [1 / 4, 3 / 4])
    assert ralston == ButcherTableau("ralston", [0, "2/3"], [[], ["2/3"]], ["1/4", "3/4"])
    assert ralston.order == 2
    assert ButcherTableau("own", [0, 0.123456789], [[], [0.123456789]], [0.5, 0.5]).c[1] == Fraction(0.123456789)
    # A float is a simple fraction up to a denominator of 10,000. A Fraction is kept as it is.
    for node, meant in ((1e-4, Fraction(1, 10_000)), (1 / 10_001, Fraction(1 / 10_001)), (Fraction(2 / 3),) * 2):
        assert ButcherTableau("own", [0, node], [[], [node]], ["1/2", "1/2"]).c[1] == meant


def test_numbers_of_a_tableau_are_fractions():
    tableau = ButcherTableau("own", np.array([0, 1]), [np.array([]), np.array([1.0])], (0.5, Fraction(1, 2)))
    same = ButcherTableau("own", [0, 1], [[], [1]], ["1/2", "1/2"])
    assert (tableau, hash(tableau)) == (same, hash(same))
    assert all(type(entry) is Fraction for entry in [*tableau.b, *tableau.c, *tableau.a[1]])


REFUSED = {
    "sums and shapes": [
        ({"b": [1]}, ValueError, "c, a and b have 2, 2 and 1 rows"),
        ({"c": [], "a": [], "b": []}, ValueError, "c, a and b have 0, 0 and 0 rows"),
        ({"b": ["1/2", "1/3"]}, ValueError, "b must sum to 1"),
        ({"a": [[], ["1/2"]]}, ValueError, "must sum to c"),
        ({"a": [[], [0, 1]]}, ValueError, "explicit"),
        ({"c": [0, 2], "a": [[], [2]]}, ValueError, r"\(0, 1\]"),
        ({"c": [0, 0], "a": [[], [0]]}, ValueError, r"\(0, 1\]"),
        ({"c": ["1/2", 1]}, ValueError, r"c must be 0 first and then in \(0, 1\], not \(1/2, 1\)$"),
    ],
    "numbers": [
        ({"c": [0, True]}, TypeError, "^c holds True; it may hold"),
        ({"a": [[], [1j]]}, TypeError, "^a row of a holds 1j; it may hold"),
        ({"b": [None, 1]}, TypeError, "^b holds None; it may hold"),
        ({"b": [1, "x"]}, ValueError, "^b holds 'x'; its numbers must be finite"),
        ({"b": [1, "1/0"]}, ValueError, "^b holds '1/0'; its numbers must be finite"),
        ({"b": [math.inf, 1]}, ValueError, "^b holds inf; its numbers must be finite"),
        ({"b": [math.nan, 1]}, ValueError, "^b holds nan; its numbers must be finite"),
    ],
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_numbers_of_a_tableau_are_named(what):
    values = {"name": "own", "c": [0, 1], "a": [[], [1]], "b": ["1/2", "1/2"]}
    assert_refused(
        (lambda changes=changes: ButcherTableau(**values | changes), error, message)
        for changes, error, message in REFUSED[what]
    )

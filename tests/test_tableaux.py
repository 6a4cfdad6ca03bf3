from fractions import Fraction
from itertools import count

import pytest
from conftest import BOGACKI_SHAMPINE

from pndm_solvers import ADAMS_BASHFORTH, TABLEAUX, ButcherTableau

CLASSICAL = {"euler": 1, "heun": 2, "rk4": 4}


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
def test_adams_bashforth_integrates_polynomials(order):
    """∫_0^1 s^p ds from values at 0, −1, −2, …: exact for every p < order, and for no more."""
    weights = ADAMS_BASHFORTH[order]
    assert len(weights) == order
    for power in range(order + 1):
        quadrature = sum(w * Fraction(node) ** power for w, node in zip(weights, count(0, -1), strict=False))
        assert (quadrature == Fraction(1, power + 1)) == (power < order)


@pytest.mark.parametrize("name", TABLEAUX)
def test_order_conditions(name):
    assert TABLEAUX[name].order == CLASSICAL[name]


def test_order_of_a_tableau_of_ones_own():
    assert BOGACKI_SHAMPINE.order == 3
    # Kutta's third order, and its b spoilt: still consistent, no longer even of order 2.
    a = [[], ["1/2"], [-1, 2]]
    assert ButcherTableau("kutta3", [0, "1/2", 1], a, ["1/6", "2/3", "1/6"]).order == 3
    assert ButcherTableau("spoilt", [0, "1/2", 1], a, ["1/6", "1/3", "1/2"]).order == 1


def test_floats_are_the_fractions_that_are_meant():
    ralston = ButcherTableau("ralston", [0, 2 / 3], [[], [2 / 3]], [1 / 4, 3 / 4])
    assert ralston == ButcherTableau("ralston", [0, "2/3"], [[], ["2/3"]], ["1/4", "3/4"])
    assert ralston.order == 2


@pytest.mark.parametrize(
    ("c", "a", "b", "message"),
    [
        ([0, 1], [[], [1]], [1], "rows"),
        ([0, 1], [[], [1]], ["1/2", "1/3"], "b must sum to 1"),
        ([0, 1], [[], ["1/2"]], ["1/2", "1/2"], "must sum to c"),
        ([0, 1], [[], [0, 1]], ["1/2", "1/2"], "explicit"),
        ([0, 2], [[], [2]], ["1/2", "1/2"], r"\(0, 1\]"),
        ([0, 0], [[], [0]], ["1/2", "1/2"], r"\(0, 1\]"),
    ],
)
def test_tableaux_check_themselves(c, a, b, message):
    with pytest.raises(ValueError, match=message):
        ButcherTableau("bad", c, a, b)

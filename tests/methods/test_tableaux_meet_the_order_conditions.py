"""Coefficients: what makes each of them right, and that nothing else does."""

import math
from fractions import Fraction
from itertools import count

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from pndm_solvers import ADAMS_BASHFORTH, TABLEAUX, ButcherTableau
from pndm_solvers.tableaux import RK4, coordinate, exact_weights

CLASSICAL = {"euler": 1, "heun": 2, "rk4": 4}
COORDINATES = {
    "default": coordinate,
    "ratio": lambda r: np.asarray(r, float),
    "root": lambda r: np.sqrt(np.asarray(r) + 0.1),
    "log": np.log1p,
}
# Nodes in σ/α, the newest first, and where the step goes.
STEPS = {
    "near noise": ([800.0, 20_000.0], 60.0),
    "long": ([10.0, 40.0, 157.0], 2.0),
    "usual": ([0.5, 0.7, 1.0, 1.4], 0.35),
    "to the data": ([0.03, 0.07, 0.13, 0.26], 0.0),
    "up": ([0.5, 0.35, 0.25, 0.2], 0.8),
    "far": ([0.030, 0.031, 0.032], 0.0),
    "all the way": ([20.0, 157.0], 0.0),
}


def check_adams_bashforth(order, weights):
    """∫_0^1 s^p ds from values at 0, −1, −2, …: exact for every p < order, and for no more."""
    assert len(weights) == order
    for power in range(order + 1):
        quadrature = sum(w * Fraction(node) ** power for w, node in zip(weights, count(0, -1), strict=False))
        assert (quadrature == Fraction(1, power + 1)) == (power < order)


def check_tableau(name, c, a, b):
    assert ButcherTableau(name, c, a, b).order == CLASSICAL[name]


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
def test_adams_bashforth_integrates_polynomials(order):
    check_adams_bashforth(order, ADAMS_BASHFORTH[order])


@pytest.mark.parametrize("name", TABLEAUX)
def test_order_conditions(name):
    check_tableau(name, TABLEAUX[name].c, TABLEAUX[name].a, TABLEAUX[name].b)


def mutants(values):
    """The same numbers, one of them changed by 1e-3."""
    for i, value in enumerate(values):
        for change in (Fraction(1, 1000), Fraction(-1, 1000)):
            yield (*values[:i], value + change, *values[i + 1 :])


def test_any_coefficient_changed_by_a_thousandth_fails():
    """Every entry of every table, one at a time, through the very checks of the two tests above."""
    tried = 0
    for order, weights in ADAMS_BASHFORTH.items():
        for changed in mutants(weights):
            with pytest.raises(AssertionError):
                check_adams_bashforth(order, changed)
            tried += 1
    for name, tableau in TABLEAUX.items():
        a = tableau.a
        changed = [(c, a, tableau.b) for c in mutants(tableau.c)] + [(tableau.c, a, b) for b in mutants(tableau.b)]
        changed += [(tableau.c, (*a[:i], row, *a[i + 1 :]), tableau.b) for i in range(len(a)) for row in mutants(a[i])]
        for entries in changed:
            with pytest.raises((AssertionError, ValueError)):
                check_tableau(name, *entries)
            tried += 1
    assert tried == 2 * (1 + 2 + 3 + 4 + 2 + 5 + 14)


@pytest.mark.parametrize("order", ADAMS_BASHFORTH)
@pytest.mark.parametrize("step", [1.0, -0.125, 1 / 64])
def test_exact_weights_on_even_steps_are_adams_bashforth(order, step):
    nodes = 2 - step * np.arange(order)
    weights = exact_weights(nodes, 2.0, 2.0 + step, COORDINATES["ratio"])
    np.testing.assert_allclose(weights, [float(w) for w in ADAMS_BASHFORTH[order]], rtol=0, atol=2e-12)


@pytest.mark.parametrize("name", COORDINATES)
@pytest.mark.parametrize("step", STEPS)
def test_exact_weights_are_the_integrals_of_lagranges_polynomials(step, name):
    """To 1e-12 of the largest, against SciPy's adaptive quadrature of each."""
    nodes, there = STEPS[step]
    u, here = COORDINATES[name], nodes[0]
    at = u(nodes)
    weights = exact_weights(nodes, here, there, u)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12 * max(map(abs, weights)))
    for i, weight in enumerate(weights):

        def lagrange(ratio, i=i):
            return math.prod((u(ratio) - at[j]) / (at[i] - at[j]) for j in range(len(at)) if j != i)

        # In a root of σ/α, which runs over decades.
        integral, _ = quad(
            lambda v: lagrange(v**4) * 4 * v**3, here**0.25, there**0.25, epsabs=0, epsrel=1e-13, limit=500
        )
        assert weight == pytest.approx(integral / (there - here), abs=1e-12 * max(map(abs, weights)))


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=5, unique=True),
    st.floats(0, 100),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)
def test_exact_weights_integrate_what_they_interpolate(ratios, there, coefficients):
    """Any polynomial in u of a degree below the number of nodes."""
    nodes = sorted(ratios)
    at = coordinate(nodes)
    if np.min(np.diff(at), initial=1) < 1e-2 or abs(there - nodes[0]) < 1e-3:
        return
    polynomial = np.polynomial.Polynomial(coefficients[: len(nodes)])
    weights = np.array(exact_weights(nodes, nodes[0], there))
    mean, _ = quad(lambda v: polynomial(coordinate(v**2)) * 2 * v, nodes[0] ** 0.5, there**0.5, epsrel=1e-12, limit=500)
    assert weights @ polynomial(at) == pytest.approx(mean / (there - nodes[0]), abs=1e-9 * np.abs(weights).sum())


def test_pure_noise_is_infinitely_far():
    assert exact_weights([2.0, 5.0, math.inf], 2.0, 1.0) == (*exact_weights([2.0, 5.0], 2.0, 1.0), 0.0)
    assert exact_weights([math.inf], math.inf, 3.0) == (1.0,)
    # and is what very much noise tends to
    far = exact_weights([2.0, 5.0, 1e150], 2.0, 1.0)
    np.testing.assert_allclose(far, exact_weights([2.0, 5.0, math.inf], 2.0, 1.0), atol=0.05)


def test_steps_without_a_length_or_an_end():
    assert exact_weights([3.0, 4.0], 3.0, 3.0) == (1.0, 0.0)
    assert exact_weights([3000.0000000000005, 4000.0], 3000.0000000000005, 3000.0) == (1.0, 0.0)
    assert exact_weights([3.0, 2.0], 3.0, math.inf) == (1.0, 0.0)


def test_two_values_at_one_place_are_refused():
    with pytest.raises(ValueError, match="two values at one place"):
        exact_weights([1.0, 2.0, 2.0], 1.0, 0.5)


def test_order_of_a_tableau_of_ones_own():
    assert BOGACKI_SHAMPINE.order == 3
    # Kutta's third order, and its b spoilt: still consistent, no longer even of order 2.
    a = [[], ["1/2"], [-1, 2]]
    assert ButcherTableau("kutta3", [0, "1/2", 1], a, ["1/6", "2/3", "1/6"]).order == 3
    assert ButcherTableau("spoilt", [0, "1/2", 1], a, ["1/6", "1/3", "1/2"]).order == 1
    # RK4's c and b with another a: all conditions of order 4 but Σ b·a·a·c = 1/24, and all but Σ b·c·a·c = 1/8.
    for stages in ([[0, "1/2"], [0, "1/2", "1/2"]], [["1/4", "1/4"], ["-1/2", "-1/2", 2]]):
        assert ButcherTableau("spoilt", RK4.c, [[], ["1/2"], *stages], RK4.b).order == 3


def test_floats_are_the_fractions_that_are_meant():
    ralston = ButcherTableau("ralston", [0, 2 / 3], [[], [2 / 3]], [1 / 4, 3 / 4])
    assert ralston == ButcherTableau("ralston", [0, "2/3"], [[], ["2/3"]], ["1/4", "3/4"])
    assert ralston.order == 2
    assert ButcherTableau("own", [0, 0.123456789], [[], [0.123456789]], [0.5, 0.5]).c[1] == Fraction(0.123456789)


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


@pytest.mark.parametrize(
    ("c", "a", "b", "order"),
    [
        # By the order conditions that each breaks: Σ b·c = 1/2 alone, then Σ b·c², Σ b·c³ and Σ b·a·c².
        ([0, "1/2", 1], [["1/2"], ["-1/3", "4/3"]], ["5/12", "1/3", "1/4"], 1),
        ([0, "1/2", 1], [["1/2"], [0, 1]], ["1/3", "1/3", "1/3"], 2),
        ([0, "3/4", 1, "1/2"], [["3/4"], ["4/3", "-1/3"], [1, -1, "1/2"]], ["1/3", "4/3", "-1/3", "-1/3"], 3),
        ([0, "1/4", "3/4", "1/2"], [["1/4"], ["-1/4", 1], ["-1/2", "3/2", "-1/2"]], [0, "2/3", "2/3", "-1/3"], 3),
    ],
)
def test_one_order_condition_broken_is_seen(c, a, b, order):
    assert ButcherTableau("spoilt", c, [[], *a], b).order == order


def test_numbers_of_a_tableau_are_fractions():
    tableau = ButcherTableau("own", np.array([0, 1]), [np.array([]), np.array([1.0])], (0.5, Fraction(1, 2)))
    same = ButcherTableau("own", [0, 1], [[], [1]], ["1/2", "1/2"])
    assert (tableau, hash(tableau)) == (same, hash(same))
    entries = [*tableau.b, *tableau.c, *tableau.a[1], *(w for weights in ADAMS_BASHFORTH.values() for w in weights)]
    assert all(type(entry) is Fraction for entry in entries)
    # A fraction is simple up to a denominator of 10,000; one that is given as a fraction is kept as it is.
    for node, meant in ((1e-4, Fraction(1, 10_000)), (1 / 10_001, Fraction(1 / 10_001)), (Fraction(2 / 3),) * 2):
        assert ButcherTableau("own", [0, node], [[], [node]], ["1/2", "1/2"]).c[1] == meant


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": 3}, TypeError, "^name is 3; it must be a text"),
        ({"c": "01"}, TypeError, "^c is '01'; it must be a sequence"),
        ({"c": b"01"}, TypeError, "^c is b'01'; it must be a sequence"),
        ({"a": np.array(1.0)}, TypeError, r"^a is array\(1.\); it must be a sequence"),
        ({"a": [[], 1]}, TypeError, "^a row of a is 1; it must be a sequence"),
        ({"b": np.array(0.0)}, TypeError, r"^b is array\(0.\); it must be a sequence"),
        ({"b": (w for w in "12")}, TypeError, "^b is <generator .*; it must be a sequence"),
        ({"c": [0, True]}, TypeError, "^c holds True; its numbers may be"),
        ({"a": [[], [1j]]}, TypeError, "^a row of a holds 1j; its numbers may be"),
        ({"b": [None, 1]}, TypeError, "^b holds None; its numbers may be"),
        ({"b": [1, "x"]}, ValueError, "^b holds 'x'; its numbers must be finite"),
        ({"b": [1, "1/0"]}, ValueError, "^b holds '1/0'; its numbers must be finite"),
        ({"b": [math.inf, 1]}, ValueError, "^b holds inf; its numbers must be finite"),
        ({"b": [math.nan, 1]}, ValueError, "^b holds nan; its numbers must be finite"),
        ({"c": [], "a": [], "b": []}, ValueError, "c, a and b have 0, 0 and 0 rows"),
        ({"c": ["1/2", 1]}, ValueError, r"c must be 0 first and then in \(0, 1\], not \(1/2, 1\)$"),
    ],
)
def test_bad_numbers_of_a_tableau_are_named(changes, error, message):
    values = {"name": "own", "c": [0, 1], "a": [[], [1]], "b": ["1/2", "1/2"]}
    with pytest.raises(error, match=message):
        ButcherTableau(**values | changes)


def test_the_coordinate_of_a_ratio():
    """ρ/(ρ + 0.3) + 0.1·√(−log α²), where α² = 1/(1 + ρ²), as a float64 array of any shape."""
    alpha = np.array([[1.0, 0.9], [0.5, 0.006]])
    ratio = np.sqrt(1 - alpha**2) / alpha
    expected = ratio / (ratio + 0.3) + 0.1 * np.sqrt(-2 * np.log(alpha))
    np.testing.assert_allclose(coordinate(ratio.tolist()), expected, rtol=1e-14)
    assert coordinate(1).dtype == coordinate(np.float32(1)).dtype == np.float64


def test_exact_weights_are_floats_down_to_steps_of_no_length():
    weights = exact_weights([3.0, 4.0], 3.0, 3.0 * (1 + 1e-10))
    assert all(type(weight) is float for weight in weights)
    assert 0 < weights[1] < 1e-9


def test_exact_weights_near_the_data_and_what_they_cost():
    """Panels are even in log ρ down to ρ = 1e-3, each no wider than a factor e and of 16 values of u."""
    asked = []

    def log(ratio):
        asked.append(np.asarray(ratio))
        return np.log(ratio)

    weights = exact_weights([1.0, 2.0], 1.0, 0.01, log)
    # ∫ log ρ dρ = ρ·log ρ − ρ, and u = log ρ is 0 and log 2 at the nodes.
    mean = (-1 - (0.01 * math.log(0.01) - 0.01)) / 0.99
    np.testing.assert_allclose(weights, [1 - mean / math.log(2), mean / math.log(2)], rtol=1e-13)
    panels = asked[0].reshape(-1, 16)
    assert len(panels) == 5
    assert all(1 < ends.max() / ends.min() < math.e for ends in panels)

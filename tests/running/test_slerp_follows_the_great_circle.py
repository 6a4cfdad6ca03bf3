"""`slerp` goes evenly along the great circle through both ends, for each sample by itself, and rounds once."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from array_libraries import LIBRARIES, enable_x64
from conftest import named
from runs import START

from pndm_solvers import initial_noise, slerp


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_slerp_goes_evenly_along_the_great_circle(library):
    a, b = initial_noise((5, 4, 6), seed=0), initial_noise((5, 4, 6), seed=1)
    a, b = (x / np.sqrt((x**2).sum((1, 2), keepdims=True)) for x in (a, b))
    b[0], b[1] = a[0], 0.01 * b[1] - a[1]  # parallel, and almost opposite
    b[1] /= np.sqrt((b[1] ** 2).sum())
    with enable_x64(True):
        ends = library.array(a, "float64"), library.array(b, "float64")
        between = [np.asarray(slerp(*ends, w / 8)) for w in range(9)]
    assert np.array_equal(between[0][2:], a[2:])
    np.testing.assert_allclose(between[8], b, atol=1e-12)
    np.testing.assert_allclose([(x**2).sum((1, 2)) for x in between], 1, rtol=1e-9)
    whole = np.arccos(np.clip((a * b).sum((1, 2)), -1, 1))
    for here, there in pairwise(between):
        angle = 2 * np.arcsin(np.sqrt(((here - there) ** 2).sum((1, 2))) / 2)
        np.testing.assert_allclose(angle, whole / 8, atol=1e-7)
    alone = slerp(a[3:4], b[3:4], 0.25)
    np.testing.assert_allclose(alone, between[2][3:4], rtol=1e-14)


def test_slerp_keeps_dtype_and_length():
    """It computes in float32 at least, and rounds once."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        a, b = (initial_noise((3, 4096), seed, like=torch.empty(3, 4096, dtype=dtype)) for seed in (0, 1))
        middle = slerp(a, b, 0.5)
        assert middle.dtype == dtype
        for x in (a, b):
            assert torch.all((middle.double().norm(dim=1) / x.double().norm(dim=1) - 1).abs() < 0.05)
        exact = slerp(a.double(), b.double(), 0.5)
        eps = max(torch.finfo(dtype).eps, 1e-6 if dtype != torch.float64 else 0)
        torch.testing.assert_close(middle.double(), exact, rtol=eps, atol=eps / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_arc_does_not_depend_on_the_length_of_its_ends(dtype):
    """Their squares may overflow and underflow."""
    a, b = (torch.randn(3, 50, generator=torch.Generator().manual_seed(n), dtype=dtype) for n in (0, 1))
    expected = slerp(a, b, 0.3)
    alike, partly = torch.ones(1, 4096, dtype=dtype), torch.ones(1, 4096, dtype=dtype)
    partly[:, :1024] = -1
    for size in (1e-30, 1e-15, 1e15, 1e37):
        torch.testing.assert_close(slerp(size * a, size * b, 0.3) / size, expected)
        torch.testing.assert_close(slerp(size * a, 0 * b, 0.3) / size, slerp(a, 0 * b, 0.3))
        middle = slerp(size * alike, size * partly, 0.5)[0, -1] / size
        torch.testing.assert_close(middle, torch.tensor(2 / 3**0.5, dtype=dtype))
        unequal, exact = slerp(size * a, b, 0.3), slerp(size * a.double(), b.double(), 0.3)
        scale = exact.abs().max()
        torch.testing.assert_close(unequal.double() / scale, exact / scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("b", "weight", "error", "message"),
    [
        (-START, 0.5, ValueError, "opposite of its partner"),
        (np.full_like(START, np.nan), 0.5, ValueError, "infinity or NaN"),
        (START[::-1], float("nan"), ValueError, "weight is nan"),
        (START[:2], 0.5, ValueError, r"b is of shape \(2, 3\); beside a it must be of shape \(4, 3\)"),
        (START.astype(np.float32), 0.5, ValueError, "b is of dtype float32 and a of float64"),
        (torch.from_numpy(START), 0.5, TypeError, "b is a Tensor and a a ndarray"),
        (START > 0, 0.5, TypeError, "dtype bool"),
    ],
    ids=["opposite", "nan", "weight", "shape", "dtype", "library", "bool"],
)
def test_ends_without_an_arc_between_them_are_refused(b, weight, error, message):
    with pytest.raises(error, match=message):
        slerp(START, b, weight)

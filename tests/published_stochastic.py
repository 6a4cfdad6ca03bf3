"""Published samplers with noise, transcribed in float64 NumPy: an independent oracle for this library's plans.

Every sampler is `name(denoise, x, sigmas, noise, **options)` and returns x at the last level:

    denoise(x, sigma)   x̂_0 as a float64 array. `sigma` is the level's entry in `sigmas`, or a level in between.
    sigmas              noise levels that fall, the last one possibly 0. α = 1 (x = x_0 + σ z), but where a sampler
                        also takes `alphas`: a variance-preserving step is the same step in x / α with σ / α.
    noise(i, kind=…)    a standard normal array for step i. The kinds are
                        "step"     added at the end of a step, by every sampler but the three with churn;
                        "middle"   added at the middle level of `dpmpp_sde`;
                        "churn"    added before a step of `euler`, `heun` and `dpm_2`, if γ > 0;
                        "restart"  added before the pair i of `restart`, if that pair begins above the last one's end.

Written from the formulas of the papers and, where a paper leaves a choice, of the program that is named. λ = log(α/σ),
h = λ_t − λ_s > 0 for a step from s to t, and every integral is by Gauss–Legendre.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)


def integral(function: Callable, start: float, end: float, panels: int = 8) -> float:
    """Of a smooth function, by 32 Gauss–Legendre points on each of the even panels."""
    half = (end - start) / panels / 2
    middles = start + half * (2 * np.arange(panels)[:, None] + 1)
    return float(half * np.sum(WEIGHTS * function(middles + half * NODES)))


def basis_integral(nodes: Sequence[float], j: int, rate: float, start: float, end: float) -> float:
    """∫ e^{rate (λ − end)} ℓ_j(λ) dλ, where ℓ_j is the polynomial that is 1 at nodes[j] and 0 at the others."""

    def function(at):
        others = [(at - node) / (nodes[j] - node) for i, node in enumerate(nodes) if i != j]
        return np.exp(rate * (at - end)) * np.prod(others, axis=0)

    return integral(function, start, end)


def alphas_and_lambdas(alphas, sigmas):
    alphas = [1.0] * len(sigmas) if alphas is None else alphas
    return alphas, [math.log(a / s) if s > 0 else math.inf for a, s in zip(alphas, sigmas, strict=True)]


# ------------------------------------------------------------------ exponential integrators: for (α, σ), and in σ


def sde_dpm_solver(
    denoise, x, sigmas, noise, *, alphas=None, order=2, solver_type="midpoint", prediction="sample",
    third="diffusers", lower_order_final=True, euler_at_final=False
):  # fmt: skip
    """SDE-DPM-Solver++ (prediction "sample", order 1 to 3) and SDE-DPM-Solver ("epsilon", order 1 or 2), multistep.

    Lu et al. 2022, arXiv 2211.01095, SDE-DPM-Solver-1, SDE-DPM-Solver++1 and their (2M); diffusers'
    DPMSolverMultistepScheduler with "sde-dpmsolver" and "sde-dpmsolver++", which adds "heun" and order 3:

        x_t = σ_t/σ_s e^{−h} x + α_t (1 − e^{−2h}) D_0 + … + σ_t √(1 − e^{−2h}) z
        x_t = α_t/α_s x − 2 (α_t σ_s/α_s − σ_t) D_0 − … + √((α_t σ_s/α_s)² − σ_t²) z

    `third` is the weight of D_2 at order 3: "diffusers" has −1/2 where "k-diffusion" (`sample_dpmpp_3m_sde`, η = 1) has
    +1/2, so D_2's weight tends to −α_t and not to 0 with h. "lagrange" is the exact integral, twice k-diffusion's.
    `lower_order_final` acts, as in diffusers, with fewer than 15 steps. A step to σ = 0 is of first order.
    """
    alphas, ls = alphas_and_lambdas(alphas, sigmas)
    ms, steps = [], len(sigmas) - 1
    for k in range(steps):
        (a_s, s), (a_t, t) = (alphas[k], sigmas[k]), (alphas[k + 1], sigmas[k + 1])
        m = denoise(x, s)
        ms.insert(0, m if prediction == "sample" else (x - a_s * m) / s)
        here = min(order, k + 1, steps - k) if lower_order_final and steps < 15 else min(order, k + 1)
        if t == 0 or (euler_at_final and k == steps - 1):
            here = 1
        h = ls[k + 1] - ls[k]
        if prediction == "sample":
            scale, first = a_t, -math.expm1(-2 * h)
            x = t / s * math.exp(-h) * x + t * math.sqrt(-math.expm1(-2 * h)) * noise(k, kind="step")
        else:
            reach = a_t * s / a_s  # σ_t e^h, finite at σ_t = 0
            scale, first = -2.0, reach - t
            x = a_t / a_s * x + math.sqrt(reach**2 - t**2) * noise(k, kind="step")
        x = x + scale * first * ms[0]
        if here > 1:
            second = 1 - first / (2 * h) if prediction == "sample" else first / h - t  # D_1's exact weight
            r0 = (ls[k] - ls[k - 1]) / h
            d1 = (ms[0] - ms[1]) / r0
        if here == 2:
            x = x + scale * (first / 2 if solver_type == "midpoint" else second) * d1
        if here == 3:
            r1 = (ls[k - 1] - ls[k - 2]) / h
            d2 = (d1 - (ms[1] - ms[2]) / r1) / (r0 + r1)
            half = 0.5 - second / (2 * h)
            curvature = {"diffusers": half - 1, "k-diffusion": half, "lagrange": 2 * half}[third]
            x = x + scale * (second * (d1 + r0 * d2) + curvature * d2)
    return x


def sa_solver(
    denoise, x, sigmas, noise, *, alphas=None, predictor=2, corrector=2, tau=1.0, modified=False,
    prediction="sample", lower_order_final=True, orders=None
):  # fmt: skip
    """Stochastic Adams: an explicit predictor, and an implicit corrector of the same step with the same noise (PEC).

    Xue et al. 2023, arXiv 2309.05019, equations 14, 15, 17 and 18, with τ constant in a step (`tau[k]` for step k):

        x_t = σ_t/σ_s e^{−τ²h} x + α_t (1 + τ²) Σ_j ∫ e^{−(1+τ²)(λ_t−λ)} ℓ_j(λ) dλ x̂_0j + σ_t √(1 − e^{−2τ²h}) z
        x_t = α_t/α_s x − σ_t (1 + τ²) Σ_j ∫ e^{λ_t−λ} ℓ_j(λ) dλ ε̂_j + τ σ_t √(e^{2h} − 1) z

    Corrector order 0 is none; the last step is not corrected. `modified` (the paper's appendix D; the authors'
    `sample_few_steps`; diffusers always) replaces the integral of e^{…} (λ − λ_s) by h²/2, its value without the
    exponential, wherever the order is 2 and the prediction "sample". Orders warm up and, with `lower_order_final`, fall
    as in diffusers' SASolverScheduler; `orders` gives (predictor, corrector) for each step instead. A step to σ = 0 is
    of first order.
    """
    alphas, ls = alphas_and_lambdas(alphas, sigmas)
    ms, draws, steps = [], [], len(sigmas) - 1
    taus = [tau] * steps if np.ndim(tau) == 0 else tau

    def update(k: int, x, newest: int, order: int):
        """Step k from x, by the answers at the levels newest, newest − 1, …"""
        (a_s, s), (a_t, t) = (alphas[k], sigmas[k]), (alphas[k + 1], sigmas[k + 1])
        if t == 0 and prediction == "sample":
            return a_t * ms[k]
        if t == 0:
            return a_t / a_s * (x + s * (taus[k] * draws[k] - (1 + taus[k] ** 2) * ms[k]))
        h, nodes = ls[k + 1] - ls[k], [ls[newest - j] for j in range(order)]
        if prediction == "sample":
            rate, factor = 1 + taus[k] ** 2, a_t * (1 + taus[k] ** 2)
            x = t / s * math.exp(-(taus[k] ** 2) * h) * x
            x = x + t * math.sqrt(-math.expm1(-2 * taus[k] ** 2 * h)) * draws[k]
        else:
            rate, factor = -1.0, -t * (1 + taus[k] ** 2)
            x = a_t / a_s * x + taus[k] * t * math.sqrt(math.expm1(2 * h)) * draws[k]
        if modified and order == 2 and prediction == "sample":
            slope = factor * h**2 / 2 / (nodes[0] - nodes[1])
            weights = [slope, -slope]
            weights[newest - k] -= a_t * math.expm1(-rate * h)  # the answer at λ_s
        else:
            weights = [factor * basis_integral(nodes, j, rate, ls[k], ls[k + 1]) for j in range(order)]
        return x + sum(weight * ms[newest - j] for j, weight in enumerate(weights))

    start, c = x, 0
    for k in range(steps):
        m = denoise(x, sigmas[k])
        ms.append(m if prediction == "sample" else (x - alphas[k] * m) / sigmas[k])
        if c > 0:
            x = update(k - 1, start, k, c)
        p, c = orders[k] if orders is not None else (min(predictor, k + 1), min(corrector, k + 2))
        if orders is None and lower_order_final:
            p, c = min(p, steps - k), min(c, steps - k + 1)
        draws.append(noise(k, kind="step"))
        start, x = x, update(k, x, k, p)
    return x


def er_sde_5(sigma):
    """The noise scale function the authors recommend, their "SDE_5"."""
    return sigma * (np.exp(sigma**0.3) + 10)


def er_sde(denoise, x, sigmas, noise, *, order=3, phi=er_sde_5, exact=False, points=None):
    """Cui et al. 2023, arXiv 2309.06169: `ve_1_order`, `ve_2_order_taylor` and `ve_3_order_taylor` of the program.

    With r = φ(σ_t)/φ(σ_s), I_0 = ∫ dσ/φ and I_1 = ∫ (σ − σ_s)/φ dσ from σ_t up to σ_s:

        x_t = r x + (1 − r) x̂_0 + (σ_t − σ_s + φ(σ_t) I_0) x̂_0' + ((σ_t − σ_s)²/2 + φ(σ_t) I_1) x̂_0''
              + √(σ_t² − σ_s² r²) z

    x̂_0' is the backward difference, x̂_0'' = 2 (x̂_0' − the last one) / (σ_s − σ two steps before) that of the parabola.
    The parabola's first derivative is x̂_0' + (σ_s − the last σ)/2 x̂_0''; the program leaves that term out, so its third
    order is not the integral of the parabola. `exact` adds it.

    `points` replaces Gauss–Legendre by the program's sums over so many left ends (100; ComfyUI has 200). The program
    also drops a variance below 1e-6, which this function does not. A step to σ = 0 is of first order.
    """

    def integrate(function, low, high):
        if points is None:
            return integral(lambda at: np.exp(at) * function(np.exp(at)), math.log(low), math.log(high))
        return float(np.sum(function(low + np.arange(points) / points * (high - low))) * (high - low) / points)

    ms, slopes = [], []
    for k, (s, t) in enumerate(itertools.pairwise(sigmas)):
        ms.insert(0, denoise(x, s))
        if k > 0:
            slopes.insert(0, (ms[0] - ms[1]) / (s - sigmas[k - 1]))
        here = 1 if t == 0 else min(order, k + 1)
        r = float(phi(t) / phi(s))
        x = r * x + (1 - r) * ms[0]
        if here > 1:
            linear = t - s + phi(t) * integrate(lambda at: 1 / phi(at), t, s)
            x = x + linear * slopes[0]
        if here > 2:
            second = 2 * (slopes[0] - slopes[1]) / (s - sigmas[k - 2])
            x = x + ((t - s) ** 2 / 2 + phi(t) * integrate(lambda at, s=s: (at - s) / phi(at), t, s)) * second
            if exact:
                x = x + linear * (s - sigmas[k - 1]) / 2 * second
        x = x + math.sqrt(max(t**2 - (s * r) ** 2, 0.0)) * noise(k, kind="step")
    return x


# ------------------------------------------------------------------ k-diffusion, from dx/dσ = (x − x̂_0)/σ


def euler_step(denoise, x, s, t):
    return x + (t - s) * (x - denoise(x, s)) / s


def heun_step(denoise, x, s, t):
    """The mean of the slopes at both ends, the second at Euler's x; Euler's step to σ = 0."""
    first = (x - denoise(x, s)) / s
    end = x + (t - s) * first
    return end if t == 0 else x + (t - s) * (first + (end - denoise(end, t)) / t) / 2


def midpoint_step(denoise, x, s, t):
    """DPM-Solver-2: the slope at √(σ_s σ_t) for the whole step; Euler's step to σ = 0."""
    if t == 0:
        return denoise(x, s)
    middle = math.sqrt(s * t)
    y = euler_step(denoise, x, s, middle)
    return x + (t - s) * (y - denoise(y, middle)) / middle


def dpmpp_2s_step(denoise, x, s, t):
    """DPM-Solver++(2S), r = 1/2: x̂_0 at √(σ_s σ_t) for the whole step; x̂_0 at σ_s to σ = 0."""
    middle = math.sqrt(s * t)
    m = denoise(x, s) if t == 0 else denoise(euler_step(denoise, x, s, middle), middle)
    return m + t / s * (x - m)


def with_churn(step):
    """Karras et al. 2022, algorithm 2, around a step: x is first raised from σ_i to σ̂ = (1 + γ) σ_i."""

    def sampler(denoise, x, sigmas, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
        most = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
        for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
            raised = s * (1 + most) if s_tmin <= s <= s_tmax else s
            if raised > s:
                x = x + s_noise * math.sqrt(raised**2 - s**2) * noise(i, kind="churn")
            x = step(denoise, x, raised, t)
        return x

    return sampler


euler = with_churn(euler_step)  # `sample_euler`
heun = with_churn(heun_step)  # `sample_heun`, the paper's algorithm itself
dpm_2 = with_churn(midpoint_step)  # `sample_dpm_2`


def down_and_up(s, t, eta):
    """(σ_down, σ_up) of `get_ancestral_step`: σ_down² + σ_up² = σ_t²; at η = 1, σ_down = σ_t²/σ_s."""
    up = min(t, eta * math.sqrt(t**2 * (s**2 - t**2) / s**2))
    return math.sqrt(t**2 - up**2), up


def ancestral(step, noise_alone=True):
    """A step to σ_down, then noise of deviation σ_up; at σ_down = 0 < σ_t only if `noise_alone`."""

    def sampler(denoise, x, sigmas, noise, *, eta=1.0, s_noise=1.0):
        for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
            down, up = down_and_up(s, t, eta)
            x = step(denoise, x, s, down)
            if t > 0 and (down > 0 or noise_alone):
                x = x + s_noise * up * noise(i, kind="step")
        return x

    return sampler


euler_ancestral = ancestral(euler_step)  # `sample_euler_ancestral`
dpm_2_ancestral = ancestral(midpoint_step, noise_alone=False)  # `sample_dpm_2_ancestral`
dpmpp_2s_ancestral = ancestral(dpmpp_2s_step)  # `sample_dpmpp_2s_ancestral`


def dpmpp_sde(denoise, x, sigmas, noise, *, eta=1.0, s_noise=1.0, r=1 / 2):
    """`sample_dpmpp_sde`: ancestral steps to the middle level and, with x̂_0 extrapolated from there, to the end.

    The program's two noises are of one Brownian path in σ: their correlation is √((σ_s − σ_mid)/(σ_s − σ_t)).
    """
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        m = denoise(x, s)
        if t == 0:
            x = m
            continue
        middle = s ** (1 - r) * t**r
        down, up = down_and_up(s, middle, eta)
        m_mid = denoise(m + down / s * (x - m) + s_noise * up * noise(i, kind="middle"), middle)
        m = m + (m_mid - m) / (2 * r)
        down, up = down_and_up(s, t, eta)
        x = m + down / s * (x - m) + s_noise * up * noise(i, kind="step")
    return x


def dpmpp_2m_sde(denoise, x, sigmas, noise, *, eta=1.0, s_noise=1.0, solver_type="midpoint", order=2):
    """`sample_dpmpp_2m_sde`: SDE-DPM-Solver++(2M) for η = τ²; "heun" is SA-Solver's predictor of order 2."""
    ms, hs = [], []
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        ms.insert(0, denoise(x, s))
        if t == 0:
            x = ms[0]
            continue
        hs.insert(0, math.log(s / t))
        rate = (1 + eta) * hs[0]
        phi1 = -math.expm1(-rate)
        phi2 = 1 - phi1 / rate
        x = (1 - phi1) * x + phi1 * ms[0]
        if i > 0:
            d1 = (ms[0] - ms[1]) * hs[0] / hs[1]
            x = x + (phi1 / 2 if solver_type == "midpoint" else phi2) * d1
        if i > 1 and order == 3:
            d2 = (d1 - (ms[1] - ms[2]) * hs[0] / hs[2]) * hs[0] / (hs[1] + hs[2])
            x = x + (phi2 * hs[1] / hs[0] + 0.5 - phi2 / rate) * d2
        x = x + s_noise * t * math.sqrt(-math.expm1(-2 * eta * hs[0])) * noise(i, kind="step")
    return x


def dpmpp_3m_sde(denoise, x, sigmas, noise, *, eta=1.0, s_noise=1.0):
    """`sample_dpmpp_3m_sde`: its second step is 2M's "heun", and its D_2 has half the weight of the exact integral."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise, eta=eta, s_noise=s_noise, solver_type="heun", order=3)


# ------------------------------------------------------------------ Restart


def restart_pairs(sigmas: Sequence[float], restart_list: dict[float, Sequence]) -> list[tuple[float, float]]:
    """(σ_old, σ_new) of every Heun step, as A1111's `restart_sampler` lists them.

    `restart_list` is {σ_min: [steps, times, σ_max]}. Both ends move to the nearest level; `steps` counts the levels
    between them, ends included, spaced by Karras's ρ = 7. So a restart is steps − 1 Heun steps.
    """

    def nearest(value):
        return min(range(len(sigmas)), key=lambda i: abs(sigmas[i] - value))

    restarts = {nearest(low): entry for low, entry in restart_list.items()}
    pairs = []
    for i, pair in enumerate(itertools.pairwise(sigmas)):
        pairs.append(pair)
        count, times, high = restarts.get(i + 1, (0, 0, sigmas[0]))
        if count and nearest(high) < i + 1:
            roots = np.linspace(sigmas[nearest(high)] ** (1 / 7), pair[1] ** (1 / 7), count)
            pairs += list(itertools.pairwise([float(root) for root in roots**7])) * times
    return pairs


def restart(denoise, x, pairs, noise, *, s_noise=1.0):
    """Xu et al. 2023, arXiv 2306.14878, algorithm 1, with Heun's steps: noise up to each σ_old above the level of x."""
    level = pairs[0][0]
    for i, (old, new) in enumerate(pairs):
        if old > level:
            x = x + s_noise * math.sqrt(old**2 - level**2) * noise(i, kind="restart")
        x = heun_step(denoise, x, old, new)
        level = new
    return x

"""A problem that is fitted in a second: a ring of Gaussians in two dimensions, and fresh noise to judge on."""

import math

import numpy as np

from pndm_solvers import Pilot
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.problem import Problem

RING = GaussianMixture.ring()


def ring(schedule, prediction="epsilon"):
    """The ring's perfect network."""
    return RING.model(schedule, prediction)


def noise(schedule, count=64, seed=0):
    """Pure noise of the schedule's highest level."""
    top = schedule.level(schedule.t_max)
    return math.hypot(top.alpha, top.sigma) * np.random.default_rng(seed).standard_normal((count, 2))


def recorded(schedule, prediction="epsilon", **options):
    """A pilot of the ring, small enough for a test."""
    options = {"levels": 64, **options}
    return Pilot.record(ring(schedule, prediction), schedule, noise(schedule), prediction=prediction, **options)


def error(plan, schedule, prediction="epsilon"):
    """The median error of a plan from starts that nothing was fitted to, against the exact flow."""
    problem = Problem.exact(RING, schedule, starts=64, seed=7)
    t = plan.levels[0].t
    result = plan.run(ring(schedule, prediction), problem.starts(t), prediction=prediction)
    return float(np.median(problem.reference(t).errors(result)))

"""Do the peers run as they should: exactly where they equal our plans, within the budget, on every kind of schedule?

The script first checks equalities, in float64 on the exact mixture: of k-diffusion's samplers with our adapter's and
with each other, of diffusers' DDIM and DPM-Solver++ with our plans and with k-diffusion's, from the top and from lower
levels, on continuous schedules, for every prediction, and with clipping. Then it prints the error of every peer with 10
calls, to the exact flow between the levels where the peer began and ended.

    python benchmarks/check_peers.py
"""

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import k_diffusion_peers
import numpy as np
import torch
from peers import PEERS, Peer, Run, traced_run

from pndm_solvers import DDIMSolver, DPMMultistepSolver, NoiseSchedule
from pndm_solvers.adapters import k_diffusion as adapter
from pndm_solvers.noise import initial_noise
from pndm_solvers.prediction import PREDICTIONS, Prediction
from pndm_solvers.problems import PROBLEMS

DISTRIBUTION = PROBLEMS["mixture"]()
NOISE = torch.from_numpy(initial_noise((32, 16), 1))


def model_of(schedule: NoiseSchedule, prediction: str) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    exact = DISTRIBUTION.model(schedule, prediction)
    return lambda x, t: torch.from_numpy(exact(x.numpy(), np.asarray(t)))


def distance(one: torch.Tensor, other: Any) -> float:
    return float((one - torch.as_tensor(other)).abs().max())


def near(title: str, found: float, bound: float) -> None:
    print(f"- {title}: {found:.0e}")
    assert found <= bound, f"{title} differ by {found:.1e}, more than {bound:.0e}"


def check_k_diffusion() -> None:
    """k-diffusion's samplers against our adapter's, on the same sigmas, and against their copies."""
    denoise = model_of(NoiseSchedule.ve(), "sample")
    sigmas = k_diffusion_peers.GRIDS["karras"](torch.tensor([0.03, 14.6]), 12).double()
    x = 14.6 * NOISE
    theirs = {name: sampler(denoise, x, sigmas) for name, sampler in k_diffusion_peers.SAMPLERS.items()}
    pairs = {"euler": "ddim", "dpmpp_2s_ancestral eta=0": "dpmpp_2s", **{n: n for n in ("heun", "dpm_2", "dpmpp_2m")}}
    for name, our in (pairs | {"lms": "lms"}).items():
        same = adapter.SAMPLERS[our](denoise, x, sigmas, disable=True)
        near(f"k-diffusion's {name} and our {our}", distance(theirs[name], same), 1e-5)
    for name, (sampler, original) in k_diffusion_peers.COPIES.items():
        near(f"k-diffusion's {name} and {original}", distance(sampler(denoise, x, sigmas), theirs[original]), 1e-9)


def noise_at(schedule: NoiseSchedule, t: float) -> torch.Tensor:
    return NOISE * float(np.hypot(schedule.alpha(t), schedule.sigma(t)))


def traced(name: str, schedule: NoiseSchedule, prediction: str | Prediction, start: float | None = None) -> Run:
    kind = Prediction.of(prediction).type
    x = noise_at(schedule, schedule.t_max if start is None else start)
    return traced_run(PEERS[name], schedule, model_of(schedule, kind), x, 10, prediction, start)


def check_ddim(schedule: NoiseSchedule, prediction: str | Prediction, start: float | None, bound: float) -> None:
    """diffusers' DDIM against ours on its times, which are even in the table."""
    kind = Prediction.of(prediction)
    run = traced("DDIM clip_sample=False set_alpha_to_one=True trailing", schedule, prediction, start)
    top = schedule.t_max if start is None else start
    size = 1000 if schedule.num_train_timesteps is None else round(top - schedule.t_min) + 1
    places = np.round(size - np.arange(10) * (size / 10)) - 1
    times = schedule.t_min + places * (top - schedule.t_min) / (size - 1)
    same = (
        DDIMSolver(schedule)
        .plan(timesteps=times, final=run.final)
        .run(model_of(schedule, kind.type), run.start, prediction=kind)
    )
    assert run.start_t == top
    title = f"DDIM's and ours on {schedule!r}, {prediction}, from {top:g} to {run.final}"
    near(title, distance(run.result, same), bound)


def check_dpm(schedule: NoiseSchedule) -> None:
    """DPM-Solver++(2M) of diffusers, of k-diffusion and of the library on the times of "trailing"."""
    name = "DPMSolverMultistep solver_order=2 final_sigmas_type=zero trailing"
    run = traced(name, schedule, "epsilon")
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    times = scheduler.timesteps.numpy()
    plan = DPMMultistepSolver(schedule, 2, lower_order_final=False).plan(timesteps=times)
    near(f"{name} and our plan", distance(run.result, plan.run(model_of(schedule, "epsilon"), NOISE)), 1e-4)
    sigmas = torch.tensor([*np.exp(-schedule.log_snr(times) / 2), 0.0])

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        at = schedule.level_at(float(sigma[0]))
        return model_of(schedule, "sample")(at.alpha * x, np.full(len(x), at.t))

    theirs = k_diffusion_peers.SAMPLERS["dpmpp_2m"](denoise, NOISE * float(np.hypot(1, sigmas[0])), sigmas)
    near(f"{name} and k-diffusion's dpmpp_2m", distance(run.result, theirs), 1e-4)


def check_euler(schedule: NoiseSchedule, prediction: str, start: float | None) -> None:
    """k-diffusion's Euler on its evenly spaced places against our DDIM there."""
    run = traced("k-diffusion euler discrete", schedule, prediction, start)
    top = schedule.t_max if start is None else start
    size = 1000 if schedule.num_train_timesteps is None else round(top - schedule.t_min) + 1
    table = np.exp(-schedule.log_snr(np.linspace(schedule.t_min, top, size)) / 2)
    sigmas = k_diffusion_peers.GRIDS["discrete"](torch.from_numpy(table), 10)[:-1].double()
    times = [schedule.level_at(float(sigma)).t for sigma in sigmas]
    same = (
        DDIMSolver(schedule).plan(timesteps=times).run(model_of(schedule, prediction), run.start, prediction=prediction)
    )
    near(
        f"k-diffusion's euler and our DDIM on {schedule!r}, {prediction}, from {top:g}",
        distance(run.result, same),
        1e-5,
    )


def report(schedule: NoiseSchedule, prediction: str | Prediction, calls: int, start: float | None) -> list[str]:
    """The lines of all peers, the best first: name, error, where the run began and ended, model calls."""
    kind, flows, lines = Prediction.of(prediction).type, {}, []
    x = noise_at(schedule, schedule.t_max if start is None else start)

    def line(peer: Peer) -> tuple[float, str]:
        try:
            run = traced_run(peer, schedule, model_of(schedule, kind), x, calls, prediction, start)
        except Exception as error:  # whatever a peer raises is a result
            return np.inf, f"- {peer.name}: {type(error).__name__}: {error}"
        assert run.calls <= calls, f"{peer.name} made {run.calls} calls, more than {calls}"
        if (key := (run.start_t, run.end_t)) not in flows:
            flows[key] = DISTRIBUTION.flow(run.start.numpy(), *map(schedule.level, key))
        error = float(np.median(np.sqrt(((run.result.numpy() - flows[key]) ** 2).mean(1))))
        words = f"{run.calls} calls from {run.start_t:g} to {run.final}"
        return error, f"- {peer.name}: {error:.1e}, {words}" + ("" if run.final == "clean" else f" ({run.end_t:g})")

    lines = sorted(map(line, PEERS.values()), key=lambda pair: np.nan_to_num(pair[0], nan=np.inf))
    return [text for _, text in lines]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    linear, continuous = NoiseSchedule.linear(), NoiseSchedule.vp(10.0, 10.0)
    with torch.inference_mode():
        print("Largest differences:\n")
        check_k_diffusion()
        for start in (None, 699.0, 639.2):  # DDIM's steps meet only where 10 divides the size of the table
            check_ddim(linear, "epsilon", start, 1e-4)
            check_euler(linear, "epsilon", start)
        for prediction in PREDICTIONS:
            check_ddim(continuous, prediction, 0.5, 1e-4)
            check_euler(continuous, prediction, 0.5)
        check_ddim(NoiseSchedule.rectified_flow(), "flow", 0.9, 1e-4)
        check_ddim(linear, Prediction("epsilon", clip=0.7), None, 1e-4)
        check_ddim(continuous, Prediction("score", clip=0.7, threshold=0.9), None, 1e-4)
        check_dpm(linear)
        for title, schedule, prediction, start in (
            ("linear betas", linear, "epsilon", None),
            ("linear betas from 700", linear, "epsilon", 700.0),
            ("vp(10, 10) and a score", continuous, "score", None),
        ):
            lines = report(schedule, prediction, 10, start)
            print(f"\n### {title}: {len(lines)} peers, 10 calls\n")
            print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()

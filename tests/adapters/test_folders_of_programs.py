"""An extension's folder is complete: the program's own loader, a copy of the package, and nothing that pip installed.

The programs are stand-ins with the names that the adapters read. benchmarks/in_comfyui and benchmarks/in_a1111 run the
real ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401 — what the programs run needs it

from pndm_solvers import NoiseSchedule, PLMSSolver
from pndm_solvers.adapters.folders import HOSTS, write_folder

ROOT = Path(__file__).parents[2]

# Refuses what the programs need not have, and shows in the end where our package came from.
GUARD = """
import importlib.abc, json, sys

class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"diffusers", "scipy", "typer", "safetensors", "array_api_strict"}:
            raise ImportError(f"{name} is imported, which the program need not have")

sys.meta_path.insert(0, Refused())
sys.path[:] = [place for place in sys.path if not place.startswith(ROOT)] + STANDINS
"""

COMFYUI = {
    "folder_paths.py": """
import os
models_dir = os.environ["MODELS"]
folder_names_and_paths = {}
def get_filename_list(name):
    folders, extensions = folder_names_and_paths[name]
    return sorted(f for d in folders if os.path.isdir(d) for f in os.listdir(d) if os.path.splitext(f)[1] in extensions)
def get_full_path_or_raise(name, file):
    return os.path.join(folder_names_and_paths[name][0][0], file)
""",
    "comfy/__init__.py": "",
    "comfy/k_diffusion/__init__.py": "",
    "comfy/k_diffusion/sampling.py": "def sample_euler(): pass\ndef sample_deis(): pass\n",
    "comfy/samplers.py": """
from typing import Any, NamedTuple
class SchedulerHandler(NamedTuple):
    handler: Any
    use_ms: bool = True
SCHEDULER_HANDLERS = {"karras": SchedulerHandler(None, False)}
SCHEDULER_NAMES = list(SCHEDULER_HANDLERS)
KSAMPLER_NAMES = ["euler", "deis"]
class KSampler:
    SCHEDULERS = SCHEDULER_NAMES
    SAMPLERS = KSAMPLER_NAMES + ["ddim", "uni_pc", "uni_pc_bh2"]
class KSAMPLER:
    def __init__(self, sampler_function, extra_options={}, inpaint_options={}):
        self.sampler_function = sampler_function
""",
}

RUN_COMFYUI = """
import importlib.util, comfy.samplers, torch
# As ComfyUI loads a folder: a name that no import statement can say, and no place on the path.
name = FOLDER.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, FOLDER + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
before = list(sys.path)
spec.loader.exec_module(module)
assert sys.path == before
import comfy.k_diffusion.sampling as sampling

def denoised(x, sigma, **_):  # exact for data of mean 0.5 and deviation 0.3
    return 0.5 + 0.09 / (0.09 + sigma[:, None] ** 2) * (x - 0.5)

class CONST: pass
class Flow(CONST): sigmas = 3 * (u := torch.arange(1, 1001) / 1000) / (1 + 2 * u)
class EPS: pass
class Latent(EPS): sigmas = torch.logspace(-1.5, 1.2, 1000, dtype=torch.float64)
class V_PREDICTION(EPS): pass
class Picture(V_PREDICTION): sigmas = torch.logspace(-1.5, 2, 1000, dtype=torch.float64)

nodes, found = module.NODE_CLASS_MAPPINGS, {}
spec = nodes["SamplerPLMS"].INPUT_TYPES()["required"]
chosen = {key: options["default"] for key, (kind, options) in spec.items()}
handler = comfy.samplers.SCHEDULER_HANDLERS["pndm"].handler
sigmas = handler(Latent(), 12)
noise = sigmas[0] * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
for key, function in {
    "in the lists": sampling.sample_plms,
    "SamplerPLMS": getattr(nodes["SamplerPLMS"](), nodes["SamplerPLMS"].FUNCTION)(**chosen)[0].sampler_function,
}.items():
    x0 = function(denoised, noise, sigmas, extra_args={}, callback=None, disable=True)
    found[key] = [float(x0.mean()), float(x0.std())]
(plan,) = nodes["SamplerPlan"].INPUT_TYPES()["required"]["plan"][0]
sampler, own = getattr(nodes["SamplerPlan"](), nodes["SamplerPlan"].FUNCTION)(plan=plan)
x0 = sampler.sampler_function(denoised, noise / sigmas[0] * own[0], own, disable=True)
found["SamplerPlan"] = [float(x0.mean()), float(x0.std())]
changed = nodes["SamplerPlan"].IS_CHANGED(plan)
import pndm_solvers
print(json.dumps({
    "ends": found, "nodes": sorted(nodes), "shown": sorted(module.NODE_DISPLAY_NAME_MAPPINGS), "digest": len(changed),
    "samplers": comfy.samplers.KSampler.SAMPLERS, "names": comfy.samplers.KSAMPLER_NAMES,
    "schedulers": comfy.samplers.KSampler.SCHEDULERS, "from": pndm_solvers.__file__,
    "tops": [float(handler(kind(), 10)[0]) for kind in (Latent, Picture, Flow)],
    "flow": [round(float(s), 6) for s in handler(Flow(), 10)[[0, -1]]],
}))
"""

A1111 = {
    "modules/__init__.py": "",
    "modules/sd_samplers_common.py": """
from collections import namedtuple
class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    def total_steps(self, steps):
        return steps * 2 if self.options.get("second_order") else steps
""",
    "modules/sd_samplers_kdiffusion.py": """
class KDiffusionSampler:
    def __init__(self, funcname, sd_model, options=None):
        self.func, self.options = funcname, options
""",
    "modules/sd_samplers.py": """
from modules.sd_samplers_common import SamplerData
all_samplers = [SamplerData("Euler", None, [], {})]
all_samplers_map = {x.name: x for x in all_samplers}
calls = []
def set_samplers():
    calls.append(len(all_samplers))
""",
    "modules/sd_schedulers.py": """
import dataclasses
@dataclasses.dataclass
class Scheduler:
    name: str
    label: str
    function: object
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list = None
schedulers = [Scheduler("karras", "Karras", None)]
schedulers_map = {**{x.name: x for x in schedulers}, **{x.label: x for x in schedulers}}
""",
}

RUN_A1111 = """
import importlib.util, torch
from modules import sd_samplers

def load():  # as the web UI runs a script of an extension
    before, sys.path[:] = list(sys.path), [FOLDER, *sys.path]
    path = FOLDER + "/scripts/pndm_solvers_samplers.py"
    spec = importlib.util.spec_from_file_location("pndm_solvers_samplers.py", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before

def denoised(x, sigma, **_):
    return 0.5 + 0.09 / (0.09 + sigma[:, None] ** 2) * (x - 0.5)

class Inner:
    sigmas = torch.logspace(-1.5, 1.2, 1000, dtype=torch.float64)
class CompVisVDenoiser(Inner): pass
class Forge(Inner):
    sigmas = 3 * (u := torch.arange(1, 1001) / 1000) / (1 + 2 * u)
    class predictor: prediction_type = "const"

load()
load()  # "Reload UI" runs it again
ours = sd_samplers.all_samplers[1:]
ends = {}
try:
    from modules import sd_schedulers
    (scheduler,) = sd_schedulers.schedulers[1:]
    assert sd_schedulers.schedulers_map[scheduler.label] is scheduler and scheduler.need_inner_model
    kinds = {"eps": Inner(), "v": CompVisVDenoiser(), "flow": Forge()}
    grids = {
        name: scheduler.function(n=12, sigma_min=0.03, sigma_max=20.0, inner_model=inner, device="cpu")
        for name, inner in kinds.items()
    }
except ImportError:
    grids = {"eps": torch.cat([torch.logspace(1.2, -1.5, 12), torch.zeros(1)])}
for sampler in ours:
    function = sampler.constructor(None).func
    sigmas = grids["eps"]
    noise = sigmas[0] * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    x0 = function(denoised, noise, sigmas=sigmas, extra_args={}, callback=None, disable=True)
    ends[sampler.name] = [float(x0.mean()), float(x0.std())]
import pndm_solvers
print(json.dumps({
    "ends": ends, "options": [s.options for s in ours], "steps": {s.name: s.total_steps(20) for s in ours},
    "known": sorted(sd_samplers.all_samplers_map), "from": pndm_solvers.__file__,
    "tops": {name: float(grid[0]) for name, grid in grids.items()},
}))
"""


def in_program(standins, code, folder, tmp_path, parse=json.loads):
    """What the code prints, in a Python whose path has the stand-ins and no checkout of ours."""
    program = tmp_path / "program"
    for name, text in standins.items():
        (program / name).parent.mkdir(parents=True, exist_ok=True)
        (program / name).write_text(text)
    head = f"ROOT, STANDINS, FOLDER = {str(ROOT / 'pndm_solvers')!r}, [{str(program)!r}], {str(folder)!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", head + GUARD + code],
        cwd=tmp_path,
        env=os.environ | {"MODELS": str(tmp_path / "models")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def assert_data(ends):
    """Samples of the data: mean 0.5, deviation 0.3."""
    assert ends
    for name, (mean, deviation) in ends.items():
        assert mean == pytest.approx(0.5, abs=0.05), name
        assert deviation == pytest.approx(0.3, abs=0.03), name


def folder_of(host, tmp_path, cloned):
    """An extension's folder in a program's own: written, or a clone of the repository as far as it matters."""
    (tmp_path / host.extensions).mkdir()
    if not cloned:
        folder = write_folder(host, tmp_path)
        assert folder == tmp_path / host.extensions / "pndm_solvers"
        return folder
    folder = tmp_path / host.extensions / "a.clone"
    (folder / host.entry).parent.mkdir(parents=True)
    (folder / host.entry).write_text((ROOT / host.entry).read_text(encoding="utf-8"))
    (folder / "pndm_solvers").symlink_to(ROOT / "pndm_solvers")
    return folder


CLONED = pytest.mark.parametrize("cloned", [False, True], ids=["written", "cloned"])


@CLONED
def test_a_folder_in_comfyui(tmp_path, cloned):
    folder = folder_of(HOSTS["comfyui"], tmp_path, cloned)
    plans = tmp_path / "models" / "pndm_plans"
    plans.mkdir(parents=True)
    (plans / "plan.json").write_text(PLMSSolver(NoiseSchedule.scaled_linear()).plan(10).to_json())
    (plans / "notes.txt").write_text("no plan")
    found = in_program(COMFYUI, RUN_COMFYUI, folder, tmp_path)
    assert_data(found["ends"])
    assert Path(found["from"]).is_relative_to(folder)
    assert found["nodes"] == found["shown"] == ["SamplerPLMS", "SamplerPlan"]
    assert found["samplers"][:5] == ["euler", "deis", "ddim", "uni_pc", "uni_pc_bh2"]
    ours = found["samplers"][5:]
    assert {"plms", "plms_classical", "pndm", "dpmpp_3m", "plms_sde"} <= set(ours)
    assert len(set(found["samplers"])) == len(found["samplers"]), "no name twice"
    assert found["names"] == ["euler", "deis", *ours]
    assert found["schedulers"] == ["karras", "pndm"]
    latent, picture, flow = found["tops"]
    assert latent < 16
    assert picture == pytest.approx(100, rel=1e-5), "networks of v begin at the top"
    assert found["flow"] == [1, 0]
    assert flow == 1
    assert found["digest"] == 64


@CLONED
@pytest.mark.parametrize("schedulers", [True, False], ids=["1.9", "1.6"])
def test_a_folder_in_a1111(tmp_path, cloned, schedulers):
    folder = folder_of(HOSTS["a1111"], tmp_path, cloned)
    modules = {name: text for name, text in A1111.items() if schedulers or "sd_schedulers" not in name}
    found = in_program(modules, RUN_A1111, folder, tmp_path)
    assert_data(found["ends"])
    assert Path(found["from"]).is_relative_to(folder)
    noisy = [label in ("PLMS SDE", "ER SDE") for label in (end.split(" (")[0] for end in found["ends"])]
    brownian = {"brownian_noise": True}
    assert found["options"] == [{"scheduler": "karras", **(brownian if noise else {})} for noise in noisy]
    assert sum(noisy) == 2
    assert found["known"] == sorted(["Euler", *found["ends"]]), "running the script again adds nothing"
    steps = {"PLMS": 20, "PLMS classical": 21, "PNDM": 29, "DPM++ 2S": 39, "PLMS SDE": 20}
    assert {name: found["steps"][f"{name} (pndm_solvers)"] for name in steps} == steps
    if schedulers:
        assert found["tops"]["flow"] == 1
        assert found["tops"]["eps"] <= found["tops"]["v"] == pytest.approx(10**1.2)


def test_the_log_says_what_is_loaded_and_from_where(tmp_path):
    folders = [write_folder(HOSTS["comfyui"], tmp_path / name) for name in ("first", "second")]
    code = """
import importlib.util, logging, comfy.samplers
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
for folder in FOLDER.split("|"):
    spec = importlib.util.spec_from_file_location(folder, folder + "/__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
"""
    lines = in_program(COMFYUI, code, "|".join(map(str, folders)), tmp_path, parse=str.splitlines)
    assert lines[0].startswith("INFO pndm_solvers ")
    assert "plms, plms_classical" in lines[0]
    assert lines[1].startswith("WARNING pndm_solvers is loaded from ")
    assert f"the copy in {folders[1]} is not used" in lines[1]


@pytest.mark.parametrize("host", HOSTS)
def test_a_clone_of_the_repository_has_the_folder_s_entry(host):
    assert (ROOT / HOSTS[host].entry).read_text(encoding="utf-8") == HOSTS[host].text


@pytest.mark.parametrize("host", HOSTS)
def test_a_folder_is_written_whole_and_replaced(tmp_path, host):
    folder = write_folder(HOSTS[host], tmp_path / "mine")
    assert (folder / HOSTS[host].entry).read_text(encoding="utf-8") == HOSTS[host].text
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert not list(folder.rglob("*.safetensors"))
    (folder / "pndm_solvers" / "left.py").touch()
    assert write_folder(HOSTS[host], folder) == folder
    assert not (folder / "pndm_solvers" / "left.py").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "nothing is left beside it"


def test_a_folder_that_is_not_ours_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(ValueError, match=r"holds other things than an extension .*; choose another folder"):
        write_folder(HOSTS["comfyui"], tmp_path / "mine")
    clone = tmp_path / "custom_nodes" / "pndm_solvers"
    (clone / ".git").mkdir(parents=True)
    with pytest.raises(ValueError, match="is a clone of a repository; update it with git pull"):
        write_folder(HOSTS["comfyui"], tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*; make it, or pass"):
        write_folder(HOSTS["comfyui"], tmp_path / "absent" / "folder" / "mine")
    assert (tmp_path / "mine" / "precious").exists()

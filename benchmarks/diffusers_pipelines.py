"""Do diffusers' pipelines pass diffusers' own tests with our schedulers in the place of theirs?

Each file of those tests runs twice in a process of its own: with diffusers' schedulers, and with ours under the same
names, for flow matching our DDIM. Counted are the tests that pass with theirs; a test that needs the hub passes with
neither. Prints one Markdown row a file and the tests that fail with ours alone, each with its error. A test may not
sample at all, and DDIM's and PNDM's own pipelines make a scheduler of diffusers' of any they get: hence the number of
tests in which a scheduler of ours took a step. Files with fewer than five tests that pass are not counted.

    git clone https://github.com/huggingface/diffusers
    pip install parameterized requests-mock accelerate torchsde
    python benchmarks/diffusers_pipelines.py --repository diffusers

Small stand-ins replace the tokenizers and encoders that the tests fetch from the hub, so nothing is downloaded. They
have the sizes of the originals and other weights. Where a test names the numbers of its picture, those belong to the
original weights and to one scheduler; such a test is counted only if the stand-ins give them too.

This file is also the plugin of pytest that puts the schedulers in place and writes down the outcomes.
"""

import argparse
import functools
import hashlib
import io
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from tables import heading, table
from tqdm import tqdm

CACHE = Path(__file__).parent / ".cache" / "diffusers_pipelines"
SIDES = ("theirs", "ours")
# What the plugin reads: the side, and the file for the outcomes.
SIDE, OUTCOMES = "DIFFUSERS_PIPELINES_SIDE", "DIFFUSERS_PIPELINES_OUTCOMES"
STEPPED: list[Any] = []  # the steps of our schedulers since the last phase of a test
FEWEST = 5  # a file with fewer tests that pass is not counted

SCHEDULERS = (
    "PNDMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
FLOW = "FlowMatchEulerDiscreteScheduler"

# Files below tests/pipelines, without "test_" and ".py".
FILES = (
    "pipelines",
    "ddim/ddim",
    "ddpm/ddpm",
    "pndm/pndm",
    "dit/dit",
    "latte/latte",
    "hunyuandit/hunyuan_dit",
    "audioldm2/audioldm2",
    "latent_diffusion/latent_diffusion",
    "latent_diffusion/latent_diffusion_superresolution",
    "stable_diffusion/stable_diffusion",
    "stable_diffusion/stable_diffusion_img2img",
    "stable_diffusion/stable_diffusion_inpaint",
    "stable_diffusion/stable_diffusion_instruction_pix2pix",
    "stable_diffusion_2/stable_diffusion",
    "stable_diffusion_2/stable_diffusion_inpaint",
    "stable_diffusion_2/stable_diffusion_depth",
    "stable_diffusion_2/stable_diffusion_upscale",
    "stable_diffusion_xl/stable_diffusion_xl_inpaint",
    "stable_diffusion_adapter/stable_diffusion_adapter",
    "controlnet/controlnet",
    "controlnet/controlnet_img2img",
    "pag/pag_sd",
    "animatediff/animatediff",
    "animatediff/animatediff_video2video",
    "kandinsky/kandinsky_img2img",
    "kandinsky2_2/kandinsky_img2img",
    "kandinsky2_2/kandinsky_inpaint",
    "kandinsky3/kandinsky3",
    "deepfloyd_if/if",
    "deepfloyd_if/if_img2img_superresolution",
    "marigold/marigold_intrinsics",
    "stable_unclip/stable_unclip",
    # flow matching
    "flux/pipeline_flux",
    "flux/pipeline_flux_img2img",
    "flux/pipeline_flux_inpaint",
    "flux/pipeline_flux_control",
    "flux/pipeline_flux_control_img2img",
    "flux/pipeline_flux_control_inpaint",
    "flux/pipeline_flux_fill",
    "flux/pipeline_flux_kontext",
    "flux/pipeline_flux_kontext_inpaint",
    "stable_diffusion_3/pipeline_stable_diffusion_3",
    "stable_diffusion_3/pipeline_stable_diffusion_3_img2img",
    "stable_diffusion_3/pipeline_stable_diffusion_3_inpaint",
    "wan/wan",
    "wan/wan_22",
    "wan/wan_22_image_to_video",
    "wan/wan_animate",
    "wan/wan_image_to_video",
    "wan/wan_vace",
    "wan/wan_video_to_video",
    "qwenimage/qwenimage",
    "qwenimage/qwenimage_img2img",
    "qwenimage/qwenimage_inpaint",
    "qwenimage/qwenimage_controlnet",
    "qwenimage/qwenimage_edit",
    "qwenimage/qwenimage_edit_plus",
    "sana/sana",
    "sana/sana_controlnet",
)


# ------------------------------------------------------------------ stand-ins for what the tests fetch


def _letters(count: int) -> list[str]:
    """So many words: the printable characters, then pairs of small letters."""
    words = [c for c in string.printable if not c.isspace()]
    words += map("".join, product(string.ascii_lowercase, repeat=2))
    return words[:count]


def _numbered(words: Iterable[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _clip_tokenizer(folder: Path) -> None:
    """1000 tokens, the last of them the end: the encoders look for the largest number."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    pairs = list(product(string.ascii_lowercase, repeat=2))[: 998 - 2 * len(alphabet)]
    words = [*alphabet, *(f"{c}</w>" for c in alphabet), *map("".join, pairs), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab=_numbered(words), merges=pairs, model_max_length=77).save_pretrained(folder)


def _t5(folder: Path) -> None:
    from transformers import T5Config, T5Tokenizer

    extra = [f"<extra_id_{number}>" for number in reversed(range(100))]
    words = ["<pad>", "</s>", "<unk>", "▁", *_letters(1103 - 104), *extra]
    words += [f"<unused_{number}>" for number in range(1103 - len(words))]
    T5Tokenizer(vocab=[(word, -float(len(word) == 1)) for word in words]).save_pretrained(folder)
    sizes = {"d_model": 32, "d_ff": 37, "d_kv": 8, "num_heads": 4, "num_layers": 5, "num_decoder_layers": 5}
    T5Config(
        vocab_size=1103, relative_attention_num_buckets=8, initializer_factor=0.002, decoder_start_token_id=0, **sizes
    ).save_pretrained(folder)


def _bert(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    BertTokenizer(vocab=_numbered(words), model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 5}
    BertModel(BertConfig(vocab_size=1124, **sizes)).save_pretrained(folder)


def _mclip(folder: Path) -> None:
    from transformers import XLMRobertaTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_letters(1005 - 6), "<mask>"]
    vocabulary = [(word, -float(len(word) == 1)) for word in words]
    XLMRobertaTokenizerFast(vocab=vocabulary, model_max_length=77).save_pretrained(folder)


def _roberta(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    RobertaTokenizer(vocab=_numbered(words), merges=[]).save_pretrained(folder)


def _qwen(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    Qwen2Tokenizer(vocab=_numbered(words), merges=[], additional_special_tokens=special).save_pretrained(folder)


def _gemma(folder: Path) -> None:
    from transformers import GemmaTokenizer

    GemmaTokenizer().save_pretrained(folder)  # five tokens; the tests' encoder knows eight


def _clap(folder: Path) -> None:
    from transformers import ClapFeatureExtractor

    ClapFeatureExtractor().save_pretrained(folder)


def _depth(folder: Path) -> None:
    from transformers import DPTImageProcessor

    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _stable_diffusion(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    width, down, up = (32, 64), "DownBlock2D", "UpBlock2D"
    unet = UNet2DConditionModel(
        sample_size=64,
        layers_per_block=2,
        block_out_channels=width,
        down_block_types=(down, f"CrossAttn{down}"),
        up_block_types=(f"CrossAttn{up}", up),
        cross_attention_dim=32,
    )
    vae = AutoencoderKL(
        block_out_channels=width,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 5}
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=1000, bos_token_id=0, eos_token_id=2, **sizes))
    _clip_tokenizer(folder / "tokenizer")
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    scheduler.register_to_config(clip_sample=False)  # the config names it, though it is no option of this class
    StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(crop_size=32, size=32),
        requires_safety_checker=False,
    ).save_pretrained(folder)


PARTS: dict[str, Callable[[Path], None]] = {
    "hf-internal-testing/tiny-random-clip": _clip_tokenizer,
    "hf-internal-testing/tiny-random-t5": _t5,
    "hf-internal-testing/tiny-random-T5Model": _t5,
    "hf-internal-testing/tiny-random-BertModel": _bert,
    "hf-internal-testing/tiny-random-roberta": _roberta,
    "hf-internal-testing/tiny-random-ClapModel": _clap,
    "hf-internal-testing/tiny-random-DPTForDepthEstimation": _depth,
    "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration": _qwen,
    "hf-internal-testing/dummy-gemma": _gemma,
    "hf-internal-testing/tiny-stable-diffusion-torch": _stable_diffusion,
    "hf-internal-testing/tiny-stable-diffusion-pipe": _stable_diffusion,
    "YiYiXu/tiny-random-mclip-base": _mclip,
}


def make_parts(hub: Path) -> None:
    """Lays the stand-ins out as the hub's cache of downloads, where every `from_pretrained` finds them."""
    for name, make in PARTS.items():
        repository = hub / f"models--{name.replace('/', '--')}"
        reference = repository / "refs" / "main"
        if reference.exists():
            continue
        snapshot = repository / "snapshots" / "0"
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir(parents=True)
        make(snapshot)
        reference.parent.mkdir(exist_ok=True)
        reference.write_text("0")  # written last: a part without it is made again


# ------------------------------------------------------------------ the plugin


def _in_their_place() -> dict[type, type]:
    """diffusers' classes, and what replaces each."""
    import diffusers

    from pndm_solvers.adapters import diffusers as ours

    flow = getattr(diffusers, FLOW)

    class Flow(flow):
        """Our DDIM on the config of diffusers' flow matching."""

        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            return ours.DDIMScheduler.from_config(flow(*arguments, **options).config)

        @classmethod
        def from_config(cls, *arguments: Any, **options: Any) -> Any:
            return ours.DDIMScheduler.from_config(flow.from_config(*arguments, **options).config)

    Flow.__name__ = FLOW
    return {getattr(diffusers, name): getattr(ours, name) for name in SCHEDULERS} | {flow: Flow}


def _counted(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def counted(*arguments: Any, **options: Any) -> Any:
        STEPPED.append(step)
        return step(*arguments, **options)

    return counted


def pytest_configure(config: Any) -> None:
    """Puts our classes into diffusers' namespace before a test module imports them from there."""
    config.places = {}
    if os.environ.get(SIDE) == "ours":
        import diffusers

        config.places = _in_their_place()
        for theirs, ours in config.places.items():
            setattr(diffusers, theirs.__name__, ours)
            if theirs.__name__ != FLOW:
                ours.step = _counted(ours.step)


def pytest_collection_modifyitems(config: Any) -> None:
    """Replaces the classes that a test module imported from elsewhere, as `diffusers.schedulers`."""
    for module in [module for name, module in sys.modules.items() if name.startswith("tests.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in config.places:
                setattr(module, name, config.places[value])


def pytest_runtest_logreport(report: Any) -> None:
    """Appends the outcome of a phase of a test, so that those before a time limit are kept."""
    if path := os.environ.get(OUTCOMES):
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = (crash.message if crash else str(report.longrepr or "")).strip()
        if crash and not report.passed:
            reason += f" [{Path(crash.path).name}:{crash.lineno}]"
        entry = {"test": report.nodeid, "phase": report.when, "outcome": report.outcome, "reason": reason[:2000]}
        entry["stepped"] = bool(STEPPED)
        STEPPED.clear()
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")


# ------------------------------------------------------------------ runs


def unpacked(repository: Path, folder: Path) -> tuple[Path, str]:
    """The tests of the repository's newest commit, in a folder without diffusers' sources; and the commit.

    The installed diffusers is tested: its own conftest.py would prefer sources beside the tests.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", repository, *arguments], check=True, stdout=subprocess.PIPE).stdout

    commit = git("rev-parse", "--short=8", "HEAD").decode().strip()
    place = folder / commit
    if not (place / "pytest.ini").exists():
        with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", "HEAD", "tests"))) as archive:
            archive.extractall(place, filter="data")
        (place / "pytest.ini").write_text("[pytest]\n")  # so that pytest looks for none further up
    return place, commit


def state_of(side: str, commit: str) -> str:
    """Everything that an outcome hangs on: the tests, the versions, and our sources where they take part."""
    versions = [f"{package} {version(package)}" for package in ("diffusers", "transformers", "torch")]
    if side == "ours":
        package = Path(find_spec("pndm_solvers").submodule_search_locations[0])
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.rglob("*.py"))))
        versions.append(f"pndm_solvers {digest.hexdigest()[:12]}")
    return ", ".join([f"tests of {commit}", *versions])


def run(file: str, side: str, tests: Path, state: str, folder: Path, limit: float) -> dict[str, Any]:
    """The outcomes of one file on one side, and how long it took."""
    stem = folder / side / file.replace("/", "+")
    stem.parent.mkdir(parents=True, exist_ok=True)
    outcomes, log = stem.with_suffix(".jsonl"), stem.with_suffix(".log")
    outcomes.unlink(missing_ok=True)
    outcomes.touch()
    below, _, name = file.rpartition("/")
    path = Path("tests", "pipelines", below, f"test_{name}.py")
    if not (tests / path).exists():
        return {"state": state, "seconds": 0, "ended": "no such file", "tests": {}, "stepped": []}
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        SIDE: side,
        OUTCOMES: str(outcomes),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",  # the numbers in the tests are those of CPUs
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-q", "-rfEs"]
    command += ["-c", "pytest.ini", "--rootdir", ".", str(path)]
    began = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command, cwd=tests, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
            ended = "" if code in (0, 1, 5) else f"pytest ended with {code}"
        except subprocess.TimeoutExpired:
            ended = f"over {limit:.0f} s"
    found: dict[str, dict[str, str]] = {}
    stepped = set()
    for line in outcomes.read_text().splitlines():
        entry = json.loads(line)
        test = entry["test"].partition("::")[2]
        if entry["stepped"]:
            stepped.add(test)
        # A test has failed if any phase has, and has passed if its call has.
        if entry["outcome"] == "failed" or (
            (entry["phase"] == "call" or entry["outcome"] == "skipped")
            and found.get(test, {}).get("outcome") != "failed"
        ):
            found[test] = {"outcome": entry["outcome"], "reason": entry["reason"]}
    seconds = round(time.monotonic() - began, 1)
    return {"state": state, "seconds": seconds, "ended": ended, "tests": found, "stepped": sorted(stepped)}


def results(
    files: Iterable[str], sides: Iterable[str], repository: Path, folder: Path, limit: float, fresh: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    """`{file: {side: outcomes}}`. A run that was made before on the same tests, versions and sources is read.

    Of a side that is not among `sides`, only such runs are there.
    """
    tests, commit = unpacked(repository, folder)
    make_parts(folder / "hub")
    states = {side: state_of(side, commit) for side in SIDES}
    found: dict[str, dict[str, dict[str, Any]]] = {file: {} for file in files}
    for file, side in tqdm(list(product(found, SIDES)), leave=False, unit="run"):
        path = folder / side / f"{file.replace('/', '+')}.json"
        kept = json.loads(path.read_text()) if path.exists() and not (fresh and side in sides) else {}
        if kept.get("state") == states[side] and not kept["ended"].startswith("pytest"):  # as where a package lacks
            found[file][side] = kept
        elif side in sides:
            found[file][side] = run(file, side, tests, states[side], folder, limit)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found[file][side], indent=1))
            partial.replace(path)
    return found


# ------------------------------------------------------------------ report


def passed(outcomes: dict[str, Any]) -> set[str]:
    return {test for test, found in outcomes.get("tests", {}).items() if found["outcome"] == "passed"}


def one_line(reason: str) -> str:
    """The error, without what a table cannot hold."""
    return re.sub(r"\s+", " ", reason).replace("|", "\\|")[:240]


def summary(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """For each file the numbers of tests, whether it is counted, and the tests that pass with theirs alone."""
    files = {}
    for file, by_side in found.items():
        theirs, ours = (passed(by_side.get(side, {})) for side in SIDES)
        tests = by_side.get("ours", {}).get("tests", {})
        both = len(by_side) == len(SIDES)
        lost = sorted(theirs - ours) if both else []
        files[file] = {
            "theirs": len(theirs) if "theirs" in by_side else None,
            "ours": len(theirs & ours) if both else None,
            "stepped": len(theirs & set(by_side["ours"]["stepped"])) if both else None,
            "counted": len(theirs) >= FEWEST,
            "lost": {test: one_line(tests.get(test, {"reason": "it did not run"})["reason"]) for test in lost},
            "gained": sorted(ours - theirs) if both else [],
            "seconds": {side: outcomes["seconds"] for side, outcomes in by_side.items()},
            "ended": {side: outcomes["ended"] for side, outcomes in by_side.items() if outcomes["ended"]},
        }
    counted = [entry for entry in files.values() if entry["counted"]]
    columns = {key: [entry[key] for entry in counted] for key in (*SIDES, "stepped")}
    totals = {key: None if None in numbers else sum(numbers) for key, numbers in columns.items()}
    return {"files": files, "counted files": len(counted)} | totals


def show(found: dict[str, Any]) -> str:
    rows = []
    for file, entry in found["files"].items():
        note = "; ".join(f"{side}: {ended}" for side, ended in entry["ended"].items())
        note = note or ("" if entry["counted"] else "not counted")
        numbers = ["" if entry[key] is None else entry[key] for key in (*SIDES, "stepped")]
        rows.append([file, *numbers, " + ".join(f"{s:.0f}" for s in entry["seconds"].values()), note])
    totals = ["" if found[key] is None else found[key] for key in (*SIDES, "stepped")]
    rows.append([f"{found['counted files']} files counted", *totals, "", ""])
    lost = [[file, *cells] for file, entry in found["files"].items() for cells in entry["lost"].items()]
    heads = ["tests of", "pass with theirs", "of these with ours", "ours took steps in", "seconds", ""]
    parts = [table(heads, rows)]
    if lost:
        parts.append(table(["tests of", "fails with ours alone", "error"], lost))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True, help="a checkout or a git directory of diffusers")
    parser.add_argument("--files", nargs="+", default=FILES, metavar="FILE", help='such as "ddim/ddim"; all by default')
    parser.add_argument("--side", nargs="+", choices=SIDES, default=SIDES, help="what is run; both by default")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for one file on one side")
    parser.add_argument("--folder", type=Path, default=CACHE)
    parser.add_argument("--json", type=Path, help="where the summary is written; in the folder by default")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = summary(
        results(options.files, options.side, options.repository.resolve(), folder, options.limit, options.fresh)
    )
    (options.json or folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"{heading('diffusers', 'transformers', 'torch')}\n\n{show(found)}")


if __name__ == "__main__":
    main()

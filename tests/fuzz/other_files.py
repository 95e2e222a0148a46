"""JSON that other tools wrote: lists of numbers for ``ttune import``, and what a diffusers folder holds. No weights are read."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.corpus import cases, small
from tests.fuzz.mutation import as_json, damaged, edited
from tests.fuzz.schedule_files import OTHERS_WORDS, SHORT, check, same_when_written_again
from tests.fuzz.target import Target, folder
from ttune import Schedule

# --------------------------------------------------------------------------------------------------------------- lists

VALUES = ([14.6, 3.2, 0.9, 0.03], [7.5, 1.2, 0.0], [1.0, 0.7, 0.2], [999, 749.5, 10, 0], [801, 201], [0.98, 1.01, 1.0])


@dataclass(frozen=True)
class List:
    """A file, and the words that ``ttune import`` gets with it."""

    data: bytes
    kind: str = "sigmas"
    noise: str | None = "linear"
    sampler: str | None = "euler"
    final: str = "zero"


@st.composite
def _lists(draw: st.DrawFn) -> List:
    if draw(st.booleans()):
        data = as_json(draw(edited([{"values": list(values)} for values in VALUES])).get("values"))
    else:
        data = draw(damaged([as_json(values) for values in VALUES], small("lists")))
    if not draw(st.integers(0, 5)):
        return List(data, "t_ratios", None, None)
    noise = draw(st.sampled_from(("linear", "scaled_linear", "cosine", "sigmoid", "continuous_vp", "edm", "ve", "flow")))
    sampler = draw(st.sampled_from(("euler", "ddim", "dpmpp_2m", "heun", "unipc")))
    return List(data, draw(st.sampled_from(("sigmas", "timesteps"))), noise, sampler, draw(st.sampled_from(("zero", "min"))))


def _import(given: List) -> bool:
    from ttune.cli.exchange import Import

    path, out, like = folder() / "fuzzed.list", folder() / "imported.json", folder() / "like.json"
    path.write_bytes(given.data)
    if not like.exists():
        Schedule.build(SHORT, "ddim", 3).save(like)
    flags: dict[str, Any] = {"kind": given.kind, "noise": given.noise, "sampler": given.sampler, "final": given.final}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            Import(values=path, out=out, like=None if given.noise else like, **flags).run()
    except ValueError as error:
        assert not any(words in str(error) for words in OTHERS_WORDS), error
        return False
    assert isinstance(json.loads(given.data), list)
    schedule = Schedule.load(out)
    check(schedule)
    same_when_written_again(schedule)
    return True


# ------------------------------------------------------------------------------------------------------------- folders

INDEX: dict[str, Any] = {
    "_class_name": "DDPMPipeline", "_diffusers_version": "0.36.0", "unet": ["diffusers", "UNet2DModel"],
    "scheduler": ["diffusers", "DDIMScheduler"], "vae": [None, None],
}  # fmt: skip
SHARDS = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
WORDS = ("unet", "transformer", "unet_2", "scheduler", "_ignored", "vae")
CLASSES = (
    *(["diffusers", kind] for kind in ("UNet2DModel", "DDIMScheduler", "FlaxUNet2DConditionModel", "__path__", "logging", "", "\x00")),
    ["os", "system"], ["diffusers.utils", "x"], ["unet", "Mine"], [None, None], ["diffusers"], "UNet2DModel",
)  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """Its ``model_index.json`` and the list of the network's weights files."""

    index: bytes
    shards: bytes = as_json(SHARDS)


@st.composite
def _folders(draw: st.DrawFn) -> Folder:
    which = draw(st.integers(0, 4))
    if which == 0:
        return Folder(draw(damaged([as_json(INDEX)], small("indices"))))
    if which == 1:
        return Folder(as_json(draw(edited([INDEX]))))
    if which == 2:
        return Folder(
            as_json(INDEX | {draw(st.sampled_from(WORDS)): draw(st.sampled_from(CLASSES)) for _ in range(draw(st.integers(1, 2)))})
        )
    return Folder(as_json(INDEX), draw(damaged([as_json(SHARDS)])) if which == 3 else as_json(draw(edited([SHARDS]))))


def _open(given: Folder) -> bool:
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from ttune.adapters.diffusers import folder as pipeline_folder
    from ttune.adapters.diffusers import loading

    place = folder() / "pipeline"
    (place / "unet").mkdir(parents=True, exist_ok=True)
    (place / "model_index.json").write_bytes(given.index)
    (place / "unet" / "model.safetensors.index.json").write_bytes(given.shards)
    try:
        index = pipeline_folder.listed_components(place, pipeline_folder.read_index(place))
        name = loading.network_name(index)
        pipeline_folder.check_network_class(index[name])
        network = pipeline_folder.class_of(name, index[name], ModelMixin)
        scheduler = pipeline_folder.class_of("scheduler", index["scheduler"], SchedulerMixin)
        pipeline_folder.check_shards(place / name)
    except (ValueError, ImportError) as error:
        assert not any(words in str(error) for words in OTHERS_WORDS), error
        return False
    assert issubclass(network, ModelMixin)
    assert issubclass(scheduler, SchedulerMixin)
    assert name in json.loads(given.index)
    return True


LISTS = Target("ttune import, lists", st.deferred(_lists), _import, 4, lambda: cases("lists", lambda file: List(file.read_bytes())))
FOLDERS = Target("diffusers folders", st.deferred(_folders), _open, 3, lambda: cases("indices", lambda file: Folder(file.read_bytes())))

"""The command line: exit status 0, 1 or 2 and a message, never a traceback, whatever words it is given."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from tests.fuzz.corpus import cases
from tests.fuzz.mutation import as_json
from tests.fuzz.reference_files import npy, npz, png
from tests.fuzz.schedule_files import bases
from tests.fuzz.target import Target, folder
from ttune import NoiseSchedule, Schedule
from ttune.cli.main import COMMANDS, main

WORDS = (
    "",
    "-",
    "--",
    "nan",
    "inf",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "0.5",
    "1e999",
    "9" * 30,
    "\x00",
    "é",
    "\ud800",
    "None",
    "true",
    "a:b",
    ":",
    "[]",
)
PLACES = (
    "out.json",
    "out.png",
    "out.npz",
    "nowhere/x.png",
    "good.json",
    "short.json",
    "",
    ".",
    "/",
    "/dev/null/x.png",
    "out.txt",
    "bad.json",
)
# Of these commands make folders and write into them: never one outside of the fuzzer's own.
FOLDERS = ("work", "a/b", "good.json", "pictures", "/dev/null/x", "", ".", "\x00")
REFERENCES = ("pictures", "images.npz", "images.npy", "moments.npz", "bad.json", "nowhere", "work", "", "/dev/null", "\x00")
FEATURES = ("pixels", "lenet64", "inception", "tests.tiny_model:factory", "tests.tiny_model:nothing", "os:getcwd", "magic", "", ":")
MODELS = ("tests.tiny_model:factory", "tests.tiny_model:nothing", "os:getcwd", "fashions", "", ":", "a.b:c", "tests.tiny_model:factory ")
SHORT = tuple(name for name in COMMANDS if name not in ("demo", "compare"))  # without arguments those two work for minutes
numbers = st.sampled_from(("0", "1", "2", "3", "5", "-1", "0.5", "nan", "inf", "1e3", "9" * 30, "x", ""))
words = st.sampled_from(WORDS)
places = st.sampled_from(PLACES)
seeds = st.sampled_from(("0", "7", "-1", str(2**63 - 2), str(2**63), "9" * 30, "x"))
samplers = st.sampled_from(("ddim", "euler", "heun", "dpmpp_2m", "unipc", "ddpm", "auto", "magic", ""))
models = st.sampled_from(MODELS)
folders = st.sampled_from(FOLDERS)
few = st.sampled_from(("0", "1", "2", "4", "-1", "x"))  # where a number more costs an evaluation of the teacher, or a tuning
nothing = st.just(())
sources = st.sampled_from(("good.json", "short.json", "pictures", "nowhere"))
spacings = st.sampled_from(("leading", "trailing", "linspace", "quadratic", "log_snr", "karras", "ays", "even"))

# One sample of a small network takes milliseconds; nothing here asks for more than a handful, or for a number that must be refused.
# A value of several words is a tuple of them.
FLAGS: dict[str, dict[str, st.SearchStrategy[str | tuple[str, ...]]]] = {
    "sample": {
        "--out": places, "--schedule": places, "--model": models, "--sampler": samplers, "--steps": numbers,
        "--spacing": spacings, "--t-start": numbers, "--samples": numbers, "--seed": seeds, "--guidance-scale": numbers,
        "--backend": words, "--columns": numbers,
        "--option": words, "--condition": words,
    },
    "tune": {
        "--out": places, "--model": models, "--sampler": samplers, "--steps": numbers, "--spacing": spacings,
        "--method": st.sampled_from(("local", "evolution:rounds=0", "evolution:budget=2", "endpoint:iterations=x", "endpoint:", "magic")),
        "--t-start": numbers, "--offset": numbers, "--final": st.sampled_from(("zero", "min", "max")),
        "--samples": few, "--validation-samples": few, "--batch-size": numbers, "--seed": seeds,
        "--iterations": st.sampled_from(("0", "1", "-1", "x")),
        "--checkpoint": places, "--residual": words, "--tune": words,
    },
    "evaluate": {
        "--model": models, "--steps": numbers, "--samples": numbers, "--batch-size": numbers, "--seed": seeds,
        "--features": st.sampled_from(FEATURES),
        "--inception": places, "--guidance-scale": numbers, "--out": places, "--reference": st.sampled_from(REFERENCES),
        "--reference-samples": numbers, "--work": folders, "--save-images": folders, "--cache": folders, "--prompts": places,
        "--metrics": st.sampled_from(("fid", ("fid", "kid"), ("kid", "precision_recall"), ("rmse", "psnr"), (), "magic", ("fid", "fid"))),
        "--splits": numbers, "--bootstrap": numbers,
    },
    "compare": {
        "--out": folders, "--model": models, "--samplers": st.one_of(samplers, st.just(("ddim", "ddim")), nothing), "--steps": few,
        "--methods": st.sampled_from(("magic", "endpoint:iterations=x", "a=b=endpoint", "endpoint:", "@best", "", "../x=endpoint", (),
                                      "a=endpoint@best:iterations=1", ("endpoint:iterations=0", "endpoint:iterations=1"))),
        "--curve": st.sampled_from(("0", "2", "3", "4", "-1", "x")), "--untuned-samplers": samplers, "--samples": few,
        "--validation-samples": few, "--test-samples": few, "--batch-size": numbers, "--seed": seeds,
        "--data": st.sampled_from(MODELS), "--guidance-scale": numbers,
    },
    "report": {
        "--out": st.sampled_from((*PLACES, "x.html", "a/b.html")),
        "--model": models, "--samples": few, "--shown": few, "--batch-size": numbers, "--seed": seeds, "--guidance-scale": numbers,
        "--conditions": st.sampled_from(("tests.tiny_model:no_conditions", *MODELS)),
    },
    "analytic": {"--out": places, "--model": models, "--steps": st.sampled_from(("0", "1", "-1")), "--samples": numbers},
    "export": {
        "--schedule": places, "--to": st.sampled_from(("timesteps", "sigmas", "t_ratios", "x")), "--steps": numbers, "--out": places,
        "--scheduler": st.sampled_from(("EulerDiscreteScheduler", "DDIMScheduler", "Scheduler", "logging", "", "\x00")),
        "--times-only": st.sampled_from(((), "x")),
    },
    "import": {
        "--values": st.sampled_from((*PLACES, "values.json")), "--out": places, "--kind": st.sampled_from(("timesteps", "t_ratios", "x")),
        "--sampler": samplers, "--like": places, "--steps": numbers, "--final": st.sampled_from(("zero", "min", "max")),
        "--noise": st.sampled_from(("scaled_linear", "cosine", "edm", "ve", "flow", "x")),
        "--noise-option": st.sampled_from((("steps", "9" * 30), ("steps", "0"), ("beta_end", "nan"), ("x", "1"), "", ("beta_start", "x"))),
        "--option": st.sampled_from((("order", "2"), ("order", "2.0"), ("x", "1"), "", "x")),
    },
    "info": {},
}  # fmt: skip
TINY = ["--model", "tests.tiny_model:factory"]
REQUIRED = {
    "sample": [*TINY, "--out", "out.npz", "--samples", "2", "--steps", "2"],
    "tune": [*TINY, "--out", "tuned.json", "--steps", "1", "--samples", "2", "--validation-samples", "2", "--iterations", "1",
             "--no-search-starts", "--quiet"],
    "evaluate": ["good.json", *TINY, "--samples", "2", "--no-teacher", "--cache", "cache", "--quiet"],
    "compare": [*TINY, "--out", "compared", "--methods", "endpoint:iterations=1", "--samplers", "ddim", "--steps", "1", "--curve", "3",
                "--samples", "2", "--validation-samples", "2", "--test-samples", "2", "--quiet"],
    "report": ["good.json", "--out", "page.html", "--samples", "2", "--shown", "1", "--quiet"],
    "analytic": [*TINY, "--out", "analytic.json", "--steps", "1", "--samples", "2", "--quiet"],
    "export": ["--schedule", "good.json"],
    "import": ["--values", "values.json", "--noise", "linear", "--sampler", "euler", "--out", "imported.json"],
    "info": [],
}  # fmt: skip
# A sample takes 20 ms, an evaluation 50, a tuning 400, a comparison 2,000.
OFTEN = ("sample",) * 8 + ("evaluate",) * 6 + ("import", "export", "report", "analytic", "tune", "info") * 2 + ("compare",)


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    """A command that would work, with up to three settings after it that may not; or words without sense."""
    command = draw(st.sampled_from(OFTEN))
    if not draw(st.integers(0, 11)):
        return draw(st.lists(st.one_of(words, st.sampled_from((*SHORT, "--help", "--out", "--steps"))), max_size=5))
    line = [command, *REQUIRED[command]]
    for _ in range(draw(st.integers(0, 3))):
        if FLAGS[command]:
            flag = draw(st.sampled_from(sorted(FLAGS[command])))
            value = draw(FLAGS[command][flag])
            line += [flag, *([value] if isinstance(value, str) else value)]
    if not draw(st.integers(0, 9)):
        line.insert(draw(st.integers(0, len(line))), draw(st.one_of(words, sources)))
    return line


@cache
def _files() -> dict[str, bytes]:
    """A good schedule, one of another noise schedule, one that is none; numbers for import; four real images in every form."""
    place = folder() / "good.json"
    Schedule.build(NoiseSchedule.linear(), "ddim", 2).save(place)
    files = {"good.json": place.read_bytes(), "short.json": as_json(bases()[0]), "bad.json": b"{", "values.json": b"[9.5, 2, 0.5]"}
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), np.uint8)
    moments = [("mu.npy", npy(np.zeros(64))), ("sigma.npy", npy(np.eye(64)))]
    files |= {"images.npy": npy(images), "images.npz": npz([("images.npy", npy(images))]), "moments.npz": npz(moments)}
    return files | {f"pictures/{i}.png": png(image[0]) for i, image in enumerate(images)}


def _prepared() -> None:
    """In a folder with these files and no others, whatever the line before has written."""
    place = folder() / "lines"
    shutil.rmtree(place, ignore_errors=True)
    (place / "pictures").mkdir(parents=True)
    for name, data in _files().items():
        (place / name).write_bytes(data)
    os.chdir(place)


def run(line: list[str]) -> bool:
    before = os.getcwd()
    _prepared()
    status = _run(line)
    os.chdir(before)
    if isinstance(status, str):
        assert status.startswith("ttune: "), status
        assert "null byte" not in status, status  # Python's words, which do not say of what
        assert "codec" not in status, status
        assert status.strip().count("\n") <= 3, status  # torch's own messages have lines
        status = 1
    assert status in (0, 1, 2), status
    return status == 0


def _run(line: list[str]) -> Any:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    torch.manual_seed(0)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(line)
        except SystemExit as stop:
            return 0 if stop.code is None else stop.code
    return 0


def _words(file: Path) -> list[str]:
    return json.loads(file.read_bytes())


LINES = Target("command lines", st.deferred(_lines), run, 5.5, lambda: cases("command_lines", _words))

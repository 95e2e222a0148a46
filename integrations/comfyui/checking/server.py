"""A server of its own, and a workflow through POST /prompt."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..sampler import seeds_of
from .cases import Case
from .models import CFG, VP, stable_diffusion, tuned

NODES_FOLDER = Path(__file__).resolve().parent.parent

CONDITIONING_NODE = """
import torch
class CheckConditioning:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "ttune"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}
    def make(self, seed):
        return ([[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]],)
NODE_CLASS_MAPPINGS = {"TtuneCheckConditioning": CheckConditioning}
"""


class Server:
    """A ComfyUI of its own: its folders are temporary, its custom nodes are these."""

    def __init__(self, folder: Path, base: Path, port: int) -> None:
        self.base = base
        for name in ("models/checkpoints", "models/ttune", "custom_nodes", "output", "input", "user", "web"):
            (base / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(NODES_FOLDER, base / "custom_nodes" / "ttune", ignore=shutil.ignore_patterns("__pycache__", "check.py", "checking"))
        (base / "custom_nodes" / "check_conditioning.py").write_text(CONDITIONING_NODE)
        (base / "web" / "index.html").write_text("")
        self.address, self.log = f"http://127.0.0.1:{port}", (base / "log").open("w+")
        options = [
            "--cpu",
            "--port",
            str(port),
            "--disable-api-nodes",
            "--base-directory",
            str(base),
            "--front-end-root",
            str(base / "web"),
        ]
        database = ["--database-url", "sqlite:///:memory:"]
        self.process = subprocess.Popen(
            [sys.executable, "main.py", *options, *database], cwd=folder, stdout=self.log, stderr=subprocess.STDOUT
        )

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data=data), timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:  # a prompt that the server refuses to queue
            raise ValueError(error.read().decode()) from None

    def ready(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        self.log.seek(0)
        raise RuntimeError(f"the server did not start:\n{self.log.read()[-2000:]}")

    def run(self, prompt: dict[str, Any], seconds: float = 180) -> dict[str, Any]:
        number = self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.ask(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(0.2)
        raise RuntimeError("the prompt did not end")

    def latent(self, prompt: dict[str, Any]) -> Tensor:
        """What the prompt's node "save" has saved."""
        history = self.run(prompt)
        if "save" not in history["outputs"]:
            raise RuntimeError(str(history["status"])[-1500:])
        [file] = history["outputs"]["save"]["latents"]
        return safetensors.torch.load_file(self.base / "output" / file["filename"])["latent_tensor"]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def images(count: int = 1) -> dict[str, Any]:
    """The nodes that every workflow has: a model, its conditionings, an empty latent, and a file of what is sampled."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "positive": node("TtuneCheckConditioning", seed=1),
        "negative": node("TtuneCheckConditioning", seed=2),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=count),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix="check"),
    }


def workflow(schedule: str) -> dict[str, Any]:
    return images() | {
        "load": node("TtuneLoadSchedule", path=schedule, steps=0),
        "sigmas": node("TtuneScheduleSigmas", schedule=["load", 0]),
        "sampler": node("TtuneScheduleSampler", schedule=["load", 0]),
        "sample": node(
            "SamplerCustom",
            model=["model", 0],
            add_noise=True,
            noise_seed=11,
            cfg=CFG,
            positive=["positive", 0],
            negative=["negative", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
    }


def in_one_node(schedule: str) -> dict[str, Any]:
    """cfg is the schedule's."""
    given = {name: [name, 0] for name in ("model", "positive", "negative")}
    settings = {"path": schedule, "steps": 0, "seed": 11, "cfg": 0.0, "denoise": 1.0}
    return images() | {"sample": node("TtuneSample", **given, **settings, latent_image=["latent", 0])}


def through_the_server(folder: Path, checkpoint: Path, port: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        server = Server(folder, base, port)
        try:
            shutil.copy(checkpoint, base / "models" / "checkpoints" / "tiny.safetensors")
            server.ready()
            sd = stable_diffusion(checkpoint)
            for sampler, steps, made_of in (("dpmpp_2m", 5, workflow), ("ddpm", 4, workflow), ("unipc", 4, in_one_node)):

                def run(sampler: str = sampler, steps: int = steps, made_of: Any = made_of) -> tuple[Tensor, Tensor]:
                    schedule = tuned(VP, sampler, steps, t_start=820.0).replace(model={"guidance_scale": CFG})
                    schedule.save(base / "models" / "ttune" / f"{sampler}.json")
                    seeds = seeds_of(11, 1) if schedule.tableau().stochastic else None
                    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(11))
                    made = server.latent(made_of(f"{sampler}.json"))
                    return sd.patcher.model.process_latent_in(made), sd.ours(schedule, noise, seeds=seeds)

                yield f"POST /prompt, {sampler}, {made_of.__name__}", run
            yield "refused: POST /prompt, no such file", lambda: server.run(workflow(str(base / "missing.json"))), "path - "
        finally:
            server.stop()

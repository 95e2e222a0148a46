"""Conditional models: conditions from lists and data sets, guidance inside the tuning, latents with a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import alpha_sigma
from ttune import ClassifierFree, NoiseSchedule, Schedule, conditions_from
from ttune.tuning.residuals import Decoded, SampleResidual, Sum

NOISE = NoiseSchedule.linear()
SHAPE = (2, 2, 2)  # of a latent
NONE = 3


@dataclass
class Classes:
    """The exact epsilon of one Gaussian per class, N(mean of the class, .3^2 I), and of their mixture for ``label`` = NONE."""

    def __call__(self, x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(NOISE, tau.double()))
        flat = x.double().flatten(1)
        means = torch.stack([torch.linspace(-1, 1, 8).roll(3 * k) for k in range(3)]).double()
        v2 = 0.09 * alpha**2 + sigma**2
        near = -(flat[:, None] - alpha[:, None] * means).square().sum(-1) / (2 * v2)
        allowed = (label[:, None] == torch.arange(3)) | (label[:, None] == NONE)
        share = near.masked_fill(~allowed, -torch.inf).softmax(1)
        centre = share @ means
        D = centre + (0.09 * alpha / v2) * (flat - alpha * centre)
        return ((flat - alpha * D) / sigma).reshape(x.shape).to(x.dtype)


def denoiser(scale: float | None = None) -> ttune.Denoiser:
    guidance = None if scale is None else ClassifierFree(scale, {"label": NONE})
    return ttune.Denoiser(Classes(), NOISE, guidance=guidance, sample_shape=SHAPE)


# ------------------------------------------------------------------------------------------------------------ the entries


def test_every_entry_comes_once_before_any_comes_again() -> None:
    draw = conditions_from({"label": [10, 20, 30, 40, 50], "text": torch.arange(5.0)[:, None] * 2})
    got = draw(torch.arange(10))
    assert sorted(got["label"][:5].tolist()) == [10, 20, 30, 40, 50]
    assert got["label"][:5].tolist() == got["label"][5:].tolist()
    assert got["text"].shape == (10, 1)
    assert torch.equal(got["text"][:, 0], got["label"] / 5 - 2)  # rows of one entry stay together
    later = draw(torch.tensor([2**32 + 7, 3]))
    assert later["label"][1] == got["label"][3]
    assert conditions_from({"label": list(range(50))}, seed=1)(torch.arange(50))["label"].tolist() != list(range(50))


def test_a_data_set_is_read_only_where_it_is_picked() -> None:
    read: list[int] = []

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            read.append(i)
            return torch.zeros(3), i % 7

    draw = conditions_from(Images(), pick=lambda item: {"label": item[1]})
    got = draw(torch.arange(6))
    assert len(read) == 6
    assert got["label"].tolist() == [i % 7 for i in read]
    assert got["label"].dtype == torch.int64
    mappings = conditions_from([{"embedding": torch.ones(2) * i} for i in range(3)])(torch.arange(3))
    assert sorted(mappings["embedding"][:, 0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        ({"a": [1, 2], "b": [1]}, {}, ValueError, "same number of entries.*{'a': 2, 'b': 1}"),
        ({}, {}, ValueError, "at least one"),
        ({"a": []}, {}, TypeError, r"values\['a'\] must be numbers or tensors"),
        ({"prompt": ["a cat", "a dog"]}, {}, TypeError, r"values\['prompt'\] must be numbers or tensors .*encode texts first"),
        ({"a": torch.tensor(3)}, {}, ValueError, r"values\['a'\] must have one row per entry"),
        (3, {}, TypeError, "values must be a mapping of lists, or a data set .*got int"),
        ([], {}, ValueError, "at least one entry"),
    ],
)
def test_mistakes_are_named(values: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conditions_from(values, **options)
    with pytest.raises(TypeError, match="an item must be a mapping of conditions, got tuple; say which part is one by pick="):
        conditions_from([(1, 2)])(torch.arange(1))


# ------------------------------------------------------------------------------------------------------------- in a tuning


def tune(model: ttune.Denoiser, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {
        "conditions": conditions_from({"label": [0, 1, 2]}),
        "samples": 24,
        "validation_samples": 24,
        "teacher": Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"),
        "search_starts": False,
        "iterations": 8,
        "progress": False,
    }
    return ttune.tune(model, Schedule.build(NOISE, "ddim", 4, "quadratic", t_start=900), **(settings | options))


@pytest.mark.parametrize("scale", [None, 2.0])
def test_a_conditional_model_is_tuned_with_its_guidance(scale: float | None) -> None:
    result = tune(denoiser(scale))
    assert result.improved
    assert result.validation["ratio"] < 0.8
    assert result.schedule.model["guidance_scale"] == scale
    x_T = ttune.initial_noise(NOISE, SHAPE, range(100, 130))
    labels = {"label": torch.arange(30) % 3}
    teacher = ttune.sample(denoiser(scale), Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"), x_T, conditions=labels)
    before, after = (
        float((ttune.sample(denoiser(scale), s, x_T, conditions=labels) - teacher).square().mean().sqrt())
        for s in (Schedule.build(NOISE, "ddim", 4, "quadratic", t_start=900), result.schedule)
    )
    assert after < 0.85 * before
    if scale is not None:
        with pytest.raises(ValueError, match=r"guidance_scale is None, the schedule was tuned for 2\.0"):
            ttune.sample(denoiser(), result.schedule, x_T, conditions=labels)


def test_guidance_counts_two_evaluations_a_sample() -> None:
    plain, guided = (tune(denoiser(scale), iterations=1) for scale in (None, 2.0))
    assert guided.cost["teacher"] == 2 * plain.cost["teacher"]


def test_latents_are_compared_after_the_decoder() -> None:
    """A residual and features of the decoded images: the tuning works in latents all the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()).requires_grad_(False)
    result = tune(
        denoiser(2.0),
        residual=Sum([SampleResidual(), Decoded(decoder)]),
        features=lambda latents: decoder(latents.float()).flatten(1)[:, ::16].double(),
    )
    assert result.improved
    assert result.schedule.tuned["residual"] == "samples + samples decoded by Sequential"
    assert result.validation["ratio"] < 0.85

"""Tuned schedules on the Hugging Face hub: files ``ttune.json`` in a repository, beside a model or alone. Needs the extra ``hub``.

    ttune.hub.push(result.schedule, "me/my-model")
    schedule = ttune.hub.pull("me/my-model", noise=denoiser.noise)

What is pulled is read as strictly as any file: JSON only, checked value by value. Credentials are huggingface_hub's business.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.collection import save_schedules
from ttune.schedule.file import MAX_BYTES
from ttune.schedule.schedule import Schedule

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILE = "ttune.json"


def push(
    schedules: Schedule | Iterable[Schedule],
    repo_id: str,
    filename: str = FILE,
    *,
    message: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    api: HfApi | None = None,
) -> str:
    """Upload one schedule, or several of different numbers of steps in one file, and return the commit's address.

    The repository is made where there is none. ``api``: a ``huggingface_hub.HfApi`` with a token or endpoint of its own.
    """
    given = [schedules] if isinstance(schedules, Schedule) else list(schedules)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ttune.json"
        if len(given) == 1:
            given[0].save(file)
        else:
            save_schedules(given, file)
        content = file.read_bytes()
    steps = ", ".join(str(schedule.steps) for schedule in given)
    hub = api or _api()
    hub.create_repo(repo_id, private=private, exist_ok=True)
    commit = hub.upload_file(
        path_or_fileobj=content,
        path_in_repo=filename,
        repo_id=repo_id,
        revision=revision,
        commit_message=message or f"ttune: {given[0].sampler} schedule of {steps} steps",
    )
    return str(getattr(commit, "commit_url", commit))


def pull(
    repo_id: str,
    filename: str = FILE,
    *,
    revision: str | None = None,
    noise: NoiseSchedule | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    api: HfApi | None = None,
) -> Schedule:
    """Download ``filename`` and load it as :meth:`ttune.Schedule.load` does: refused where ``noise``, ``sampler`` or ``steps`` differ.

    ValueError for a file that is too large to be a schedule, before it is downloaded.
    """
    hub = api or _api()
    _check_size(hub, repo_id, filename, revision)
    path = hub.hf_hub_download(repo_id, filename, revision=revision)
    return Schedule.load(path, noise=noise, sampler=sampler, steps=steps)


def _check_size(hub: Any, repo_id: str, filename: str, revision: str | None) -> None:
    for info in hub.get_paths_info(repo_id, [filename], revision=revision):
        size = getattr(info, "size", None)
        if size is not None and size > MAX_BYTES:
            raise ValueError(f"{repo_id}/{filename}: a schedule file has at most {MAX_BYTES} bytes, this one has {size}")


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise ImportError("ttune.hub needs huggingface_hub: pip install 'ttune[hub]'") from error
    return HfApi()


__all__ = ["pull", "push"]

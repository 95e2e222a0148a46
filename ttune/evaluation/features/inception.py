"""The Inception features of FID and KID, through clean-fid; weights that are not the published file are called something else."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ttune.evaluation.features.cleanfid import import_cleanfid
from ttune.evaluation.features.extractor import FeatureExtractor, to_uint8

INCEPTION = "Inception (clean-fid)"
INCEPTION_FILE = "inception-2015-12-05.pt"
DEFAULT_FOLDER = Path("./" if platform.system() == "Windows" else "/tmp")  # clean-fid's own place


def inception(path: str | Path | None = None, device: str | torch.device = "cpu") -> FeatureExtractor:
    """The 2048 Inception features of FID, exactly as clean-fid 0.1.35 makes them (mode "clean").

    Images become uint8, are resized to 299 x 299 by Pillow's bicubic filter, and grey ones are repeated to
    three channels. The weights are a TorchScript program, which loading runs: name a file that you trust. The published file is known
    by its name alone; what it was is said by ``digest``, which evaluations record beside every figure.

    Args:
        path: ``inception-2015-12-05.pt``, or its folder; default where clean-fid keeps it. A file of another name, with the
            same interface, is used too, but its features carry that name, and no distance in them is an FID.
        device: where the network runs.

    Raises:
        FileNotFoundError: the weights are not there; nothing is ever downloaded.
        PermissionError: without ``path``: another user has put them there, or may change them.
        ModuleNotFoundError: clean-fid is not installed (extra ``fid``).

    Source: Parmar, Zhang and Zhu, CVPR 2022.
    """
    file = _weights(path)
    resize = import_cleanfid("resize").build_resizer("clean")
    batch_features = import_cleanfid("fid").get_batch_features
    network = _network(file).to(device).eval()

    def features(x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images: Inception takes 1 or 3 channels, got shape {tuple(x.shape)}")
        pictures = to_uint8(x).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        resized = torch.stack([torch.from_numpy(resize(picture)).permute(2, 0, 1) for picture in pictures])
        return torch.from_numpy(batch_features(resized, network, torch.device(device)))

    name = INCEPTION if file.name == INCEPTION_FILE else f"weights {file.name} in place of Inception's"
    return FeatureExtractor(name, features, batch=64, digest=hashlib.sha256(file.read_bytes()).hexdigest())


def _weights(path: str | Path | None) -> Path:
    """The file of the weights: ``path``, or within the folder ``path``, or where clean-fid keeps it."""
    if path is None:
        file = DEFAULT_FOLDER / INCEPTION_FILE
        _check_owner(file)
    else:
        file = Path(path) if Path(path).is_file() or Path(path).suffix == ".pt" else Path(path) / INCEPTION_FILE
    if not file.is_file():
        address = import_cleanfid("downloads_helper").inception_url
        raise FileNotFoundError(
            f"path: Inception's weights must be at {file}, and there is no such file. ttune downloads nothing: "
            f"fetch {address}, then put it there, or pass path=<its folder>."
        )
    return file


def _check_owner(file: Path) -> None:
    """In a folder that all users share, a program that was not named must be this user's or root's: loading it runs it."""
    if not hasattr(os, "getuid") or not os.path.lexists(file):
        return
    for found in (file.lstat(), file.stat() if file.exists() else file.lstat()):  # of a link, and of what it leads to
        shared = bool(found.st_mode & stat.S_IWOTH) and not stat.S_ISLNK(found.st_mode)  # a link's own mode says nothing
        if found.st_uid not in (os.getuid(), 0) or shared:
            how = "all users may write it" if shared else f"it belongs to the user {found.st_uid}"
            raise PermissionError(
                f"path: the program {file}, which is run when nothing is named, must belong to this user or root and not be "
                f"writable by all, and {how}; name it (--inception) if you trust it"
            )


def _network(file: Path) -> nn.Module:
    """clean-fid's wrapper, which wants a folder with a file of the published name in it."""
    wrapper = import_cleanfid("inception_torchscript").InceptionV3W
    if file.name == INCEPTION_FILE:
        return wrapper(str(file.parent), download=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / INCEPTION_FILE).symlink_to(file.resolve())
        return wrapper(folder, download=False)

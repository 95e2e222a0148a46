"""Real images and their moments for ``--reference``: an .npz, an .npy or a folder. What is opened can be read and lies in range."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.fuzz.corpus import cases, small
from tests.fuzz.mutation import damaged
from tests.fuzz.target import Target, folder
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.images.image_source import ENDINGS, Pictures, open_pictures
from ttune.evaluation.images.references import open_reference

DESCRIPTIONS = (
    "|u1",
    "<f4",
    "<f2",
    "<f8",
    ">f4",
    "<f16",
    "<i8",
    "|b1",
    "<c8",
    "|O",
    "|V8",
    "|V0",
    "<U4",
    "|S0",
    "<M8[s]",
    "<f4,<f4",
    "(2,)f4",
)
DESCRIPTIONS += ("", "x", "O" * 300, None, 5, [("images", "<f4")], [("a", "|O")], [], {"names": ["a"], "formats": ["f4"]})
SHAPES: tuple[Any, ...] = ((2, 1, 4, 4), (2, 3, 4, 4), (2, 4, 4, 3), (2, 4, 4), (3, 3), (3,), (), (0, 1, 4, 4), (2, 1, 0, 4), (2, 5, 4, 4))
SHAPES += ((-1, 1, 4, 4), (2**31,) * 4, (2**63,), (2**40, 1, 4, 4), (10**400,), (1,) * 33, (1,) * 70, (2, 1.0, 4, 4), (True, 1, 4, 4))
SHAPES += ([2, 1, 4, 4], "2", None, 2)
NAMES = ("images.npy", "images", "arr_0.npy", "mu.npy", "sigma.npy", "x.npy", "../images.npy", "images.npy/", "\x00", "é.npy")
FILLINGS = (b"\x00", b"\xff", b"\x7f", b"\x3f\x00", b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f", b"cos\nsystem\n")
LYING = (
    0,
    1,
    2**16,
    2**31,
    2**32 - 2,
    2**32 - 1,
)  # sizes that a zip's directory may state; with the last it looks for more in another place


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """With a fixed date, so that one seed makes one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


@cache
def arrays() -> list[bytes]:
    """Good .npy files of every kind."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (2, 3, 4, 5), np.uint8)
    floats = (pixels / 127.5 - 1).astype(np.float32)
    return [npy(array) for array in (pixels, pixels.transpose(0, 2, 3, 1), pixels[:, 0], floats, np.asfortranarray(floats[:, :1]))]


@cache
def moments() -> list[tuple[str, bytes]]:
    return [("mu.npy", npy(np.arange(3.0))), ("sigma.npy", npy(np.eye(3)))]


@cache
def archives() -> list[bytes]:
    found = [npz([("images.npy", array)], zipfile.ZIP_DEFLATED) for array in arrays()[:2]]
    return [*found, npz([("arr_0.npy", arrays()[3])]), npz(moments()), npz(moments(), zipfile.ZIP_DEFLATED)]


@st.composite
def _headed(draw: st.DrawFn) -> bytes:
    """An .npy whose header may say what no array is."""
    header = {
        "descr": draw(st.sampled_from(DESCRIPTIONS[:5] * 4 + DESCRIPTIONS)),
        "fortran_order": draw(st.sampled_from((False, False, True, None, 1))),
        "shape": draw(st.sampled_from(SHAPES[:5] * 4 + SHAPES)),
    }
    if not draw(st.integers(0, 15)):
        header.pop(draw(st.sampled_from(sorted(header))))
    said = repr(header).encode() + draw(st.sampled_from((b"\n", b"\n", b"", b" " * 20_000, b"(" * 5_000)))
    version = draw(st.sampled_from((1, 1, 1, 2, 3, 0, 255)))
    length = struct.pack("<H" if version == 1 else "<I", len(said))
    return (
        b"\x93NUMPY" + bytes([version, 0]) + length + said + draw(st.sampled_from(FILLINGS)) * draw(st.sampled_from((32, 96, 192, 1024, 0)))
    )


@st.composite
def _zipped(draw: st.DrawFn) -> bytes:
    """An .npz of up to three arrays, in which the directory may lie about their sizes."""
    array = st.one_of(st.sampled_from(arrays()), st.sampled_from([data for _, data in moments()]), _headed())
    members = st.tuples(st.sampled_from(NAMES[:5] * 3 + NAMES), array)
    data = bytearray(npz(draw(st.lists(members, max_size=3)), draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))))
    at = data.find(b"PK\x01\x02")  # the directory; its fields 20 and 24 are the sizes packed and unpacked, 42 the place in the file
    if at >= 0 and not draw(st.integers(0, 2)):
        place = at + draw(st.sampled_from((20, 24, 24, 42)))
        data[place : place + 4] = struct.pack("<I", draw(st.sampled_from(LYING)))
    return bytes(data)


@st.composite
def _arrays(draw: st.DrawFn) -> bytes:
    return draw(st.one_of(_headed(), _zipped(), damaged(arrays(), small("references")), damaged(archives())))


def _read_array(data: bytes) -> bool:
    """Named by what it begins with: an .npz that is called otherwise has no moments, which would be another file."""
    path = folder() / f"fuzzed.{'npz' if data.startswith(b'PK') else 'npy'}"
    path.write_bytes(data)
    try:
        found = open_reference(path, "three numbers", 3)
    except ValueError as error:
        assert str(error).startswith(("reference: ", "mean: ", "covariance: ")), error
        return False
    if isinstance(found, FeatureStatistics):
        assert np.isfinite(found.mean).all()
        assert np.isfinite(found.covariance).all()
        assert found.covariance.shape == (len(found.mean),) * 2
    else:
        _check_readable(found)
    return True


def _check_readable(pictures: Pictures) -> None:
    count = min(len(pictures), 5)
    assert count > 0
    parts = list(pictures.read(range(count)))
    assert sum(map(len, parts)) == count
    for part in parts:
        assert part.ndim == 4
        assert part.shape[1] in (1, 3), part.shape
        assert part.isfinite().all()
        assert part.abs().max() <= 1.001
    assert pictures.digest(count) == pictures.digest(count)


# ------------------------------------------------------------------------------------------------------------- folders

KINDS = {"PNG": "RGB", "JPEG": "RGB", "BMP": "RGB", "PPM": "L", "TIFF": "RGBA", "WEBP": "RGB", "GIF": "P", "ICO": "RGB", "EPS": "RGB"}
HEADS = (
    b"P5 20000 20000 255 ",
    b"P6 9000 9000 65535\n",
    b"P6 -1 3 255\n",
    b"P3 2 2 255 1 2 3",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"BM",
    b"",
    b"\x00" * 40,
)


@dataclass(frozen=True)
class Folder:
    """A folder with one good picture and one of ``data``, called ``name``; read as grey ones or not."""

    name: str
    data: bytes
    channels: int | None = None


def png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@cache
def images() -> list[bytes]:
    """One of every format that is read, in another mode each, and of some that are not."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    found = []
    for kind, mode in KINDS.items():
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, kind)
        found.append(file.getvalue())
    return found


_folders = st.deferred(
    lambda: st.builds(
        Folder,
        st.sampled_from([f"fuzzed{ending}" for ending in sorted(ENDINGS)] + ["fuzzed.PNG", "fuzzed.gif"]),
        damaged(images(), HEADS),
        st.sampled_from((None, 1, 3)),
    )
)


def _read_folder(given: Folder) -> bool:
    place = folder() / "pictures"
    place.mkdir(exist_ok=True)
    for file in place.iterdir():
        file.unlink()
    (place / "good.png").write_bytes(images()[0])
    (place / given.name).write_bytes(given.data)
    found = open_pictures(place, given.channels)
    assert len(found) == 1 + (given.name != "fuzzed.gif")
    try:
        for part in found.read(range(len(found))):
            assert part.ndim == 4
            assert part.shape[1] == (given.channels or 3)
            assert part.abs().max() <= 1
    except ValueError as error:
        assert str(error).startswith(f"reference: {place / given.name} is not a readable image"), error
        return False
    assert found.digest(len(found)) == found.digest(len(found))
    return True


ARRAYS = Target("references, arrays", st.deferred(_arrays), _read_array, 5, lambda: cases("references"))
FOLDERS = Target(
    "references, image files", _folders, _read_folder, 4, lambda: cases("pictures", lambda file: Folder(file.name, file.read_bytes()))
)

"""Make the pictures and captions of ``train_emoji.py`` from three npm packages.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 emojilib@4.0.3
    for f in *.tgz; do mkdir "${f%-*}" && tar xzf "$f" -C "${f%-*}" --strip-components 1; done
    python examples/prepare_emoji.py --packages . --out runs/emoji/pictures.npz

Noto (Google, Apache-2.0) and Twemoji (Twitter and others, CC-BY 4.0), 64 x 64 pixels on white; names and keywords from emojilib (MIT).
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from ttune.storage.atomic_write import write_atomically

STYLES = {"noto": "google", "twemoji": "twitter"}
# Flags and letters say nothing to a model of this size, and cost a sixth of the pictures.
LEFT_OUT = {"country-flag", "subdivision-flag", "alphanum", "keycap", "skin-tone", "family"}
# One picture an idea: the person, not the man and the woman beside it; full hours, not half ones.
NEAR_TWINS = re.compile(r"(m[ae]n|wom[ae]n) .|.* facing right|.*thirty")


@dataclasses.dataclass
class Args:
    """Make the pictures and captions of train_emoji.py."""

    packages: Path
    """Folder that holds ``emoji-datasource-google``, ``emoji-datasource-twitter`` and ``emojilib``, unpacked."""
    out: Path = Path("runs/emoji/pictures.npz")


def on_white(path: Path) -> np.ndarray:
    """The picture (64, 64, 3) uint8, laid on white."""
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def read_packages(packages: Path) -> tuple[list[np.ndarray], list[str], list[str], list[str]]:
    """Pictures, names ("noto: red apple"), keywords ("fruit, mac"), and groups ("Food & Drink")."""
    emoji = json.loads((packages / "emoji-datasource-google" / "emoji.json").read_text(encoding="utf-8"))
    words = json.loads((packages / "emojilib" / "dist" / "emoji-en-US.json").read_text(encoding="utf-8"))
    pictures, names, keywords, groups = [], [], [], []
    for entry in emoji:
        character = "".join(chr(int(point, 16)) for point in entry["unified"].split("-"))
        name, *others = (word.replace("_", " ").lower() for word in words.get(character, [entry["name"]]))
        if entry["subcategory"] in LEFT_OUT or NEAR_TWINS.match(name):
            continue
        for style, vendor in STYLES.items():
            if entry[f"has_img_{vendor}"]:
                pictures.append(on_white(packages / f"emoji-datasource-{vendor}" / "img" / vendor / "64" / entry["image"]))
                names.append(f"{style}: {name}")
                keywords.append(", ".join(word for word in others if re.fullmatch(r"[a-z][a-z '-]+", word)))
                groups.append(entry["category"])
    return pictures, names, keywords, groups


def main(args: Args) -> None:
    pictures, names, keywords, groups = read_packages(args.packages)
    packed = io.BytesIO()
    np.savez_compressed(packed, pictures=np.stack(pictures), names=names, keywords=keywords, groups=groups)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, packed.getvalue())
    print(f"wrote {args.out}: {len(names):,} pictures, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Train the bundled model: a class-conditional epsilon-prediction U-Net on Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python examples/train_fashion.py --out runs/fashion
    python examples/train_fashion.py --out runs/fashion --resume      # after an interruption

Writes ``checkpoint.pt`` every few minutes (atomically), and at the end ``fashion.safetensors``: the
averaged weights in float16, the file that ttune ships in ``ttune/zoo``. About 70 minutes on two
otherwise idle cores with AMX (bfloat16 autocast: 514 images/s there, against 363 in float32).
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import safetensors.torch
import torch
import tyro
from torch.nn import functional as F
from tqdm import tqdm

import ttune
from ttune.zoo.fashion_mnist import DEBIAN_FOLDER, read_debian
from ttune.zoo.unet import NULL_CLASS, UNet


@dataclasses.dataclass
class Args:
    """Train the bundled Fashion-MNIST model."""

    out: Path = Path("runs/fashion")
    data: Path = DEBIAN_FOLDER
    """Folder with the four ``*-ubyte.gz`` files of Fashion-MNIST."""
    iterations: int = 10_000
    batch: int = 128
    lr: float = 1e-3
    """Peak learning rate of AdamW; linear warm-up over 500 iterations, cosine decay to 0 over the last 40 %."""
    ema: float = 0.9995
    label_dropout: float = 0.15
    """Share of samples trained with the null class."""
    bfloat16: bool = True
    """Autocast to bfloat16 (1.4x faster with AMX; use --no-bfloat16 elsewhere)."""
    seed: int = 0
    checkpoint_every: int = 500
    resume: bool = False


def learning_rate(args: Args, i: int) -> float:
    decay_from = int(0.6 * args.iterations)
    warm = min(1.0, (i + 1) / 500)
    progress = max(0.0, (i - decay_from) / max(1, args.iterations - decay_from))
    return args.lr * warm * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def save_atomically(path: Path, write) -> None:
    temporary = path.with_suffix(".tmp")
    write(temporary)
    os.replace(temporary, path)


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    torch.manual_seed(args.seed)
    images, labels = read_debian(args.data, "train")
    noise = ttune.NoiseSchedule.linear()
    t_all = torch.arange(1000, dtype=torch.float64).numpy()
    alphas = torch.from_numpy(noise.alpha(t_all)).float()
    sigmas = torch.from_numpy(noise.sigma(t_all)).float()

    network, average = (UNet().to(memory_format=torch.channels_last) for _ in range(2))  # pyright: ignore[reportCallIssue]
    average.requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    first = 0
    if args.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["iteration"]

    running, begin = None, time.time()
    bar = tqdm(range(first, args.iterations), initial=first, total=args.iterations, mininterval=10)
    for i in bar:
        # Every iteration draws from a generator of its own, so that a resumed run sees the same batches.
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + i)
        pick = torch.randint(0, len(images), (args.batch,), generator=generator)
        x0 = images[pick].float().div(127.5).sub(1.0)
        label = labels[pick].clone()
        label[torch.rand(args.batch, generator=generator) < args.label_dropout] = NULL_CLASS
        # One time per stratum of [0, 1000): less variance than independent times.
        t = ((torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) * (1000 / args.batch)).long()
        epsilon = torch.randn(x0.shape, generator=generator)
        x_t = alphas[t].view(-1, 1, 1, 1) * x0 + sigmas[t].view(-1, 1, 1, 1) * epsilon
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            predicted = network(x_t, t.float(), label)
        loss = F.mse_loss(predicted.float(), epsilon)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, i)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            decay = min(args.ema, (i + 1) / (i + 10))
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        running = loss.item() if running is None else 0.998 * running + 0.002 * loss.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (i + 1) % args.checkpoint_every == 0 or i + 1 == args.iterations:
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "iteration": i + 1,
            }
            save_atomically(checkpoint, lambda path, state=state: torch.save(state, path))
            half = {k: v.half().contiguous() for k, v in average.state_dict().items()}
            meta = {"iterations": str(i + 1), "batch": str(args.batch), "loss": f"{running:.4f}"}
            save_atomically(args.out / "fashion.safetensors", lambda path, h=half, m=meta: safetensors.torch.save_file(h, path, m))
            tqdm.write(f"iteration {i + 1}: loss {running:.4f}, {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Args))

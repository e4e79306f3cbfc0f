"""How fast this machine trains a network: a step on a few images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from cdkd.training.environment import choose_device, keep_freed_memory
from cdkd.training.setup import network

FIRST, COUNT, COUNT_SLOW, ON_CUDA = 2, 16, 4, 64  # images of a step
SLOW = 0.3  # seconds of the first step, from which on a network is measured on fewer images


class Pace(NamedTuple):
    """Seconds for one image. step: forward and backward pass; forward: alone, as of a teacher or in a test"""

    step: float
    forward: float


def measure(name: str, image: tuple[int, int, int], classes: int = 100) -> Pace:
    """The time of a network on this machine. image: (H, W, C).

    On a CPU one thread's processor time, so that other work on the machine does not count.
    Raises BadParams where the network cannot be built.
    """
    device = choose_device()
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = network(name, {"classes": classes, "image": image}, 0, device)

        def step(count: int) -> None:
            model.zero_grad()
            images, labels = _batch(count)
            functional.cross_entropy(model(images).logits, labels).backward()  # type: ignore[no-untyped-call]

        def forward(count: int) -> None:
            with torch.no_grad():
                model(_batch(count)[0])

        def _batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
            shape = (count, image[2], *image[:2])
            images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
            return images, torch.zeros(count, dtype=torch.int64, device=device)

        first = _seconds(step, FIRST, device)
        count = ON_CUDA if device.type == "cuda" else COUNT_SLOW if first > SLOW else COUNT
        return Pace(*(_second(run, count, device) / count for run in (step, forward)))
    finally:
        torch.set_num_threads(threads)


def _second(run: Callable[[int], None], count: int, device: torch.device) -> float:
    """Of the second run; the first one allocates."""
    _seconds(run, count, device)
    return _seconds(run, count, device)


def _seconds(run: Callable[[int], None], count: int, device: torch.device) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    run(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started

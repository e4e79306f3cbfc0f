"""CUDA graphs: a training step is recorded once and replayed; the runs in it may run in parallel.

Small networks are limited by kernel launches and leave most of a device idle. A recorded step needs one
launch, and independent work in it may run at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from cdkd.core.batch import Batch
from cdkd.core.errors import CdkdError

STREAMS = "CDKD_STREAMS"
WARM_UP = 3  # steps: libraries choose and allocate on their first calls, which cannot be recorded


class CudaGraphStep:
    """A training step. On CUDA it is recorded once and replayed, with the same kernels and bits.

    Values that change from step to step must be in tensors that keep their memory: weights, sums, the
    learning rate. Batches of another size than the first (an epoch's last) are computed, not replayed. On a
    CPU, or with CDKD_CUDA_GRAPHS=0, every step is computed.
    """

    def __init__(self, step: Callable[[Batch], None], device: torch.device, *, record: bool = True) -> None:
        self.step = step
        wanted = record and device.type == "cuda" and os.environ.get("CDKD_CUDA_GRAPHS", "1") != "0"
        self.stream = torch.cuda.Stream(device) if wanted else None  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None  # what the recorded step reads
        self.warm = 0

    def __call__(self, batch: Batch) -> None:
        if self.stream is None or (self.batch is not None and batch.images.shape != self.batch.images.shape):
            self.step(batch)
        elif self.warm < WARM_UP:  # real steps, on the stream that will record
            self.batch = self.batch or _copy_of(batch)
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            self.warm += 1
        else:
            self._replay(batch)

    def _replay(self, batch: Batch) -> None:
        if self.batch is None:
            raise RuntimeError("a step is replayed before it was warmed up")
        for kept, view in zip(self.batch.views, batch.views, strict=True):
            kept.copy_(view)
        self.batch.labels.copy_(batch.labels)
        self.batch.indices.copy_(batch.indices)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.step(self.batch)  # recorded, not computed
        self.graph.replay()


def _copy_of(batch: Batch) -> Batch:
    return Batch(tuple(view.clone() for view in batch.views), batch.labels.clone(), batch.indices.clone())


class StreamPool:
    """Runs independent tasks: on CUDA on CDKD_STREAMS streams (default 1), otherwise one after the other.

    The position of a task selects its stream and must stay the same from call to call, because memory that a
    stream frees is reused by the same stream.
    """

    def __init__(self, device: torch.device) -> None:
        count = streams_wanted()
        self.streams: list[torch.cuda.Stream] = []
        if device.type == "cuda" and count > 1:
            self.streams = [torch.cuda.Stream(device) for _ in range(count)]  # type: ignore[no-untyped-call]

    def __call__(self, tasks: Sequence[Callable[[], None]]) -> None:
        if not self.streams:
            for task in tasks:
                task()
            return
        current = torch.cuda.current_stream()
        used = self.streams[: len(tasks)]  # a recording must end in the streams that it began in
        for stream in used:
            stream.wait_stream(current)
        for position, task in enumerate(tasks):
            with torch.cuda.stream(used[position % len(used)]):
                task()
        for stream in used:
            current.wait_stream(stream)


def streams_wanted() -> int:
    text = os.environ.get(STREAMS, "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 64):
        raise CdkdError(f"{STREAMS}: {text!r}; expected a number of streams, 1 to 64")
    return int(text)

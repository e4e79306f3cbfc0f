"""A step that CUDA replays, and students side by side in it. Small networks are bound by the launching of their kernels and leave
most of a device idle: a recorded step is launched as one, and what does not wait for each other in it may run at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from cdkd.core.errors import CdkdError
from cdkd.data.batches import Batch

STREAMS = "CDKD_STREAMS"
WARM_UP = 3  # steps: libraries choose and allocate on their first calls, which cannot be recorded


class Recorded:
    """A training step, called as it is on a CPU; on CUDA recorded once and then replayed: the same kernels, the same bits.

    What changes from step to step must lie in tensors that stay where they are: weights, sums, the learning rate. Batches
    of another size than the first (an epoch's last) are not replayed but computed. CDKD_CUDA_GRAPHS=0 replays nothing.
    """

    def __init__(self, step: Callable[[Batch], None], device: torch.device) -> None:
        self.step = step
        self.stream = (
            torch.cuda.Stream(device)
            if device.type == "cuda" and os.environ.get("CDKD_CUDA_GRAPHS", "1") != "0"
            else None
        )  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None  # what the recorded step reads
        self.warm = 0

    def __call__(self, batch: Batch) -> None:
        if self.stream is None or (self.batch is not None and batch.images.shape != self.batch.images.shape):
            self.step(batch)
        elif self.warm < WARM_UP:  # real steps, on the stream that will record
            self.batch = self.batch or Batch(
                batch.images.clone(), batch.labels.clone(), batch.indices.clone()
            )
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            self.warm += 1
        else:
            self._replay(batch)

    def _replay(self, batch: Batch) -> None:
        if self.batch is None:
            raise RuntimeError("a step is replayed before it was tried")
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.batch.indices.copy_(batch.indices)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.step(self.batch)  # recorded, not computed
        self.graph.replay()


class Beside:
    """Pieces of work that do not wait for each other: on CUDA on so many streams as CDKD_STREAMS says (1 without it), else one after the other.

    A piece's place decides its stream, and so must stay the same from call to call: memory that a stream frees is its own again.
    """

    def __init__(self, device: torch.device) -> None:
        count = streams_wanted()
        self.streams = (
            [torch.cuda.Stream(device) for _ in range(count)] if device.type == "cuda" and count > 1 else []
        )  # type: ignore[no-untyped-call]

    def __call__(self, pieces: Sequence[Callable[[], None]]) -> None:
        if not self.streams:
            for piece in pieces:
                piece()
            return
        current = torch.cuda.current_stream()
        used = self.streams[: len(pieces)]  # a recording may not end in a stream that it did not begin in
        for stream in used:
            stream.wait_stream(current)
        for place, piece in enumerate(pieces):
            with torch.cuda.stream(used[place % len(used)]):
                piece()
        for stream in used:
            current.wait_stream(stream)


def streams_wanted() -> int:
    text = os.environ.get(STREAMS, "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 64):
        raise CdkdError(f"{STREAMS}: {text!r}; expected a number of streams, 1 to 64")
    return int(text)

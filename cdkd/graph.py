"""A step that CUDA replays. Small networks are bound by the launching of their kernels; a recorded step is launched as one."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from cdkd.data.batches import Batch

WARM_UP = 3  # steps: libraries choose and allocate on their first calls, which cannot be recorded


class Recorded:
    """A training step, called as it is on a CPU; on CUDA recorded once and then replayed: the same kernels, the same bits.

    What changes from step to step must lie in tensors that stay where they are: weights, sums, the learning rate. Batches
    of another size than the first (an epoch's last) are not replayed but computed. CDKD_CUDA_GRAPHS=0 replays nothing.
    """

    def __init__(self, step: Callable[[Batch], None], device: torch.device) -> None:
        self.step = step
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" and os.environ.get("CDKD_CUDA_GRAPHS", "1") != "0" else None  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None  # what the recorded step reads
        self.warm = 0

    def __call__(self, batch: Batch) -> None:
        if self.stream is None or (self.batch is not None and batch.images.shape != self.batch.images.shape):
            self.step(batch)
        elif self.warm < WARM_UP:  # real steps, on the stream that will record
            self.batch = self.batch or Batch(batch.images.clone(), batch.labels.clone(), batch.indices.clone())
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

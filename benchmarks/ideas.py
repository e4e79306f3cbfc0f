"""What was tried and is not built in: each against what is, interleaved, one thread, by processor time.

python -m benchmarks.ideas

Measured on an AMD EPYC with AVX2, float32:
- the teacher's BatchNorm folded: a pass of resnet32x4 at 64 images x1.02, of resnet20 x1.07 (at 8x8 pixels
  x1.15), of resnet34-imagenet at 2 images of 224 pixels x1.04. For that every network would have to say which
  convolution lies before which BatchNorm.
- BatchNorm, ReLU and sum of a block as one torch.autograd.Function of torch's own operations: a step of
  resnet8x4 x0.98 (convolutions are 88 % of it, BatchNorm 7 %, ReLU 3 %).
- the mean of a network's last map with a gradient that is a view, as the losses have it: x1.00.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cdkd.models.build import build
from cdkd.training.environment import keep_freed_memory

TEACHER, STUDENT, BATCH, STUDENTS, ROUNDS = "resnet32x4", "resnet8x4", 64, 4, 5


def network(name: str) -> nn.Module:
    return build(name, 100).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def folded(model: nn.Module) -> nn.Module:
    """The teacher with each BatchNorm multiplied into the convolution before it."""
    for module in model.modules():
        for convolution, norm in (("conv1", "bn1"), ("conv2", "bn2")):
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and isinstance(
                getattr(module, convolution, None), nn.Conv2d
            ):
                setattr(
                    module,
                    convolution,
                    fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)),
                )
                setattr(module, norm, nn.Identity())
    for module in model.modules():
        if (
            isinstance(module, nn.Sequential)
            and len(module) == 2
            and isinstance(module[1], nn.BatchNorm2d)
            and isinstance(module[0], nn.Conv2d)
        ):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return model


def stacked(students: list[nn.Module]) -> Callable[[Tensor, Tensor], None]:
    """One step's gradients of all students by vmap."""
    parameters, buffers = stack_module_state(students)

    def one(own: dict[str, Tensor], state: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            functional_call(students[0], (own, state), (images,)).logits, labels
        )

    def step(images: Tensor, labels: Tensor) -> None:
        losses = torch.vmap(one, in_dims=(0, 0, None, None))(parameters, buffers, images, labels)
        torch.autograd.grad(losses.sum(), list(parameters.values()))

    return step


def one_by_one(students: list[nn.Module]) -> Callable[[Tensor, Tensor], None]:
    def step(images: Tensor, labels: Tensor) -> None:
        for student in students:
            torch.autograd.grad(
                nn.functional.cross_entropy(student(images).logits, labels), list(student.parameters())
            )

    return step


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(what: str, built: Callable[[], object], idea: Callable[[], object]) -> None:
    built(), idea()
    times = [(seconds(built), seconds(idea)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{what:48} {ours * 1e3:8.0f} ms as built, {theirs * 1e3:8.0f} ms so: x{ours / theirs:.2f}",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,))
    plain, fused = network(TEACHER).eval(), network(TEACHER).eval()
    fused.load_state_dict(plain.state_dict())
    folded(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(images).logits, plain(images).logits, rtol=1e-3, atol=1e-3)
        compare(f"teacher's pass, BatchNorm folded ({TEACHER})", lambda: plain(images), lambda: fused(images))
    students = [network(STUDENT) for _ in range(STUDENTS)]
    single, many = one_by_one(students), stacked([network(STUDENT) for _ in range(STUDENTS)])
    compare(
        f"{STUDENTS} students' gradients by vmap ({STUDENT})",
        lambda: single(images, labels),
        lambda: many(images, labels),
    )


if __name__ == "__main__":
    main()

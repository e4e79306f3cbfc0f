"""torchvision's ResNets as `Features`: for ImageNet with their own stem, for CIFAR with a 3x3 stem."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cdkd.models.staged import Stage, Staged


def torchvision_resnet(network: str, classes: int, channels: int) -> TorchvisionResNet:
    """resnet{depth}-{stem}; stem: imagenet or cifar."""
    import torchvision.models.resnet as torchvision  # 2 s, paid only where such a network is built

    name, stem = network.split("-")
    net = getattr(torchvision, name)(weights=None, num_classes=classes)
    if stem == "cifar":
        net.conv1 = _convolution(channels, size=3, stride=1)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = _convolution(channels, size=7, stride=2)
    return TorchvisionResNet(net)


class TorchvisionResNet(Staged):
    """He et al. 2016. Maps: the outputs of layer1 to layer4 after their last ReLU, as in CD's released code.

    The state dict has torchvision's own keys, so that its checkpoints load. The cifar stem is CD's: a 3x3
    convolution of stride 1 and no max-pooling: 32x32 gives maps of 32, 16, 8 and 4; imagenet's gives 224 ->
    56, 28, 14, 7. Stem: after its max-pooling.
    """

    STEM, STAGES = ("conv1", "bn1"), ("layer1", "layer2", "layer3", "layer4")
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    fc: nn.Linear

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        for name, module in net.named_children():
            if name != "avgpool":
                self.add_module(name, module)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return x, x

    def stage(self, index: int, x: Tensor, preactivation: bool) -> Stage:
        blocks = self.modules_of(index)
        before = _total(blocks[-1], blocks[:-1](x)) if preactivation else None
        x = blocks(x) if before is None else F.relu(before)
        return Stage(x, before, x)


def _total(block: nn.Module, x: Tensor) -> Tensor:
    """The sum before the last ReLU of torchvision's BasicBlock or Bottleneck."""
    children = dict(block.named_children())
    y = children["bn1"](children["conv1"](x))
    for number in (2, 3):
        if f"conv{number}" in children:
            y = children[f"bn{number}"](children[f"conv{number}"](F.relu(y, inplace=True)))
    shortcut = children.get("downsample")
    return y + (x if shortcut is None else shortcut(x))  # type: ignore[no-any-return]


def _convolution(channels: int, size: int, stride: int) -> nn.Conv2d:
    """A stem's convolution, initialised as torchvision does its own."""
    convolution = nn.Conv2d(channels, 64, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution

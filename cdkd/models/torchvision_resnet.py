"""torchvision's ResNets with taps on their four stages, for ImageNet (the stem as it is) and for CIFAR (a 3x3 stem)."""

from __future__ import annotations

from torch import Tensor, nn

from cdkd.core.features import Features


def torchvision_resnet(network: str, classes: int, channels: int) -> TorchvisionResNet:
    """resnet{depth}-{stem}; stem: imagenet or cifar."""
    import torchvision.models.resnet as torchvision  # 2 s, paid only by who asks for such a network

    name, stem = network.split("-")
    net = getattr(torchvision, name)(weights=None, num_classes=classes)
    if stem == "cifar":
        net.conv1 = _convolution(channels, size=3, stride=1)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = _convolution(channels, size=7, stride=2)
    return TorchvisionResNet(net)


class TorchvisionResNet(nn.Module):
    """He et al. 2016 as torchvision has it. Maps: the outputs of layer1 to layer4 after their last ReLU (the taps of CD's code).

    The state dict has torchvision's own keys, so that its checkpoints load. The cifar stem is CD's: a 3x3 convolution
    of stride 1 and no max-pooling, so that 32x32 gives maps of 32, 16, 8 and 4; imagenet's gives 224 -> 56, 28, 14, 7.
    The average over height and width is `mean`: on CUDA the backward pass of AdaptiveAvgPool2d is not deterministic.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    fc: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        for name, module in net.named_children():
            if name != "avgpool":
                self.add_module(name, module)

    def forward(self, x: Tensor) -> Features:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        fourth = self.layer4(third)
        pooled = fourth.mean((2, 3))
        return Features((first, second, third, fourth), pooled, self.fc(pooled))


def _convolution(channels: int, size: int, stride: int) -> nn.Conv2d:
    """A stem's convolution, initialised as torchvision does its own."""
    convolution = nn.Conv2d(channels, 64, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution

"""The layers of our DeepLabV3 on ResNet-18, ResNet-101 and MobileNetV2 in plain `torch.nn`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_STEPS = ((1, 1), (2, 1), (1, 2), (1, 4))  # stride and dilation of the stages, output stride 8
_DEPTHS = {18: (2, 2, 2, 2), 101: (3, 4, 23, 3)}
_MOBILE = ((24,) * 2, (32,) * 3, (64,) * 4 + (96,) * 3, (160,) * 3 + (320,))


def conv_norm(channels, features, kernel=3, stride=1, dilation=1, groups=1, activation=nn.ReLU):
  """Convolution, BatchNorm, activation."""
  layers = [nn.Conv2d(channels, features, kernel, stride, kernel // 2 * dilation, dilation, groups,
                      bias=False), nn.BatchNorm2d(features)]
  return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class Block(nn.Module):
  """Of ResNet: two 3x3 convolutions, or 1x1, 3x3, 1x1 to four times the channels."""

  def __init__(self, channels, features, stride, first_dilation, dilation, deep):
    super().__init__()
    width = 4 * features if deep else features
    self.residual = nn.Sequential(
        conv_norm(channels, features, 1),
        conv_norm(features, features, 3, stride, first_dilation),
        conv_norm(features, width, 1, activation=None)) if deep else nn.Sequential(
            conv_norm(channels, features, 3, stride, first_dilation),
            conv_norm(features, features, 3, 1, dilation, activation=None))
    same = stride == 1 and channels == width
    self.shortcut = nn.Identity() if same else conv_norm(
        channels, width, 1, stride, activation=None)

  def forward(self, x):
    return F.relu(self.residual(x) + self.shortcut(x))


def resnet(depth):
  """The backbone, and its channels."""
  deep, channels, layers = depth > 34, 64, [
      conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
  for features, count, (stride, dilation) in zip((64, 128, 256, 512), _DEPTHS[depth], _STEPS):
    for i in range(count):
      first = max(1, dilation // 2) if i == 0 else dilation
      layers.append(Block(channels, features, stride if i == 0 else 1, first, dilation, deep))
      channels = 4 * features if deep else features
  return nn.Sequential(*layers), channels


class InvertedResidual(nn.Module):
  """Of MobileNetV2."""

  def __init__(self, channels, features, expansion, stride, dilation):
    super().__init__()
    hidden = expansion * channels
    expand = [conv_norm(channels, hidden, 1, activation=nn.ReLU6)] if expansion > 1 else []
    self.layers = nn.Sequential(
        *expand, conv_norm(hidden, hidden, 3, stride, dilation, hidden, nn.ReLU6),
        conv_norm(hidden, features, 1, activation=None))
    self.adds = stride == 1 and channels == features

  def forward(self, x):
    return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet():
  """The backbone, and its channels."""
  layers = [conv_norm(3, 32, 3, 2, activation=nn.ReLU6), InvertedResidual(32, 16, 1, 1, 1)]
  channels = 16
  for stage, (stride, dilation) in zip(_MOBILE, ((2, 1), *_STEPS[1:])):
    for i, features in enumerate(stage):
      first = i == 0
      layers.append(InvertedResidual(
          channels, features, 6, stride if first else 1,
          max(1, dilation // 2) if first else dilation))
      channels = features
  return nn.Sequential(*layers), channels


class DeepLabV3(nn.Module):
  """Backbone, atrous pyramid, 3x3 and classifier; returns logits and embedding."""

  def __init__(self, name, classes):
    super().__init__()
    self.backbone, channels = mobilenet() if name == 'mobilenetv2' else resnet(
        int(name.removeprefix('resnet')))
    width = 256 if name == 'resnet101' else 128
    self.branches = nn.ModuleList([conv_norm(channels, width, 1), *(
        conv_norm(channels, width, 3, dilation=rate) for rate in (12, 24, 36))])
    self.pooled = conv_norm(channels, width, 1)
    self.project = nn.Sequential(conv_norm(5 * width, width, 1), nn.Dropout(0.5),
                                 conv_norm(width, width, 3), nn.Dropout(0.1))
    self.classifier = nn.Conv2d(width, classes, 1)
    self.register_buffer('mean', torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
    self.register_buffer('std', torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

  def forward(self, image):
    """Of uint8 images `(N, 3, H, W)`."""
    x = self.backbone((image.float() - self.mean) / self.std)
    pooled = self.pooled(x.mean((2, 3), keepdim=True))
    maps = [branch(x) for branch in self.branches]
    x = self.project(torch.cat([*maps, pooled.expand_as(maps[0])], 1))
    return self.classifier(x), x

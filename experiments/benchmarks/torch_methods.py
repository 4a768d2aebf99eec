"""Whole methods in eager PyTorch: KD, SKD with its critic, CIRKD with its queues."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from experiments.benchmarks import inputs
from experiments.benchmarks.torch_losses import (
    cross_image_pixel,
    pairwise_affinity,
    pixels,
    pixelwise_kl,
    similarity_kl,
)
from experiments.benchmarks.torch_models import conv_norm


class KD(nn.Module):
  """The pixel-wise KL."""

  def __init__(self, batch, classes):
    super().__init__()

  def forward(self, student, teacher):
    return pixelwise_kl(student[0], teacher[0])

  def after(self, student, teacher):
    """What follows the step."""


class _Attention(nn.Module):
  """SAGAN's."""

  def __init__(self, channels):
    super().__init__()
    self.query, self.key = (nn.Conv2d(channels, channels // 8, 1) for _ in range(2))
    self.value, self.gamma = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.zeros(()))

  def forward(self, x):
    query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
    weights = F.softmax(torch.bmm(query.transpose(1, 2), key), 2)
    return x + self.gamma * torch.bmm(value, weights.transpose(1, 2)).view_as(x)


def critic(channels, side):
  """Of class maps, as `models.critic.Critic`."""
  layers = []
  for i, features in enumerate((64, 128, 256, 512)):
    kernel, stride = (4, 2) if side >= 8 else (3, 1)
    layers += [spectral_norm(nn.Conv2d(channels, features, kernel, stride, 1)), nn.LeakyReLU(0.1)]
    layers += [_Attention(features)] if i >= 2 else []
    channels, side = features, (side + 2 - kernel) // stride + 1
  return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4))


class SKD(nn.Module):
  """Pixel-wise, pair-wise over all pixels, and holistic with its critic's step."""

  def __init__(self, batch, classes):
    super().__init__()
    size = [side // 8 for side in batch['image'].shape[2:]]
    self._image = F.interpolate(batch['image'].float() / 64 - 2, size, mode='bilinear',
                                align_corners=True)
    # In a list: no part of what the student trains.
    self._critic = [critic(classes + 3, min(size))]
    self._optimizer = torch.optim.SGD(self.critic.parameters(), lr=1e-4, momentum=0.9)

  @property
  def critic(self):
    """The network."""
    return self._critic[0]

  def _seen(self, logits):
    return torch.cat([self._image, F.softmax(logits, 1)], 1)

  def score(self, logits):
    """What the student minimises against the critic."""
    return -self.critic(self._seen(logits)).mean()

  def critic_loss(self, student, teacher):
    """What the critic minimises: Wasserstein's loss with gradient penalty."""
    real, fake = self._seen(teacher.detach()), self._seen(student.detach())
    alpha = torch.rand(len(real), 1, 1, 1)
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
    slope, = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).pow(2).mean()
    return self.critic(fake).mean() - self.critic(real).mean() + 10 * penalty

  def forward(self, student, teacher):
    return (10 * pixelwise_kl(student[0], teacher[0])
            + 10 * pairwise_affinity(student[1], teacher[1]) + 0.1 * self.score(student[0]))

  def after(self, student, teacher):
    """The critic's step."""
    self._optimizer.zero_grad()
    self.critic_loss(student[0], teacher[0]).backward()
    self._optimizer.step()


class CIRKD(nn.Module):
  """KD, mini-batch and memory-based relations with both queues, as the official code has them."""

  def __init__(self, batch, classes):
    super().__init__()
    width = inputs.TEACHER
    self.head = nn.Sequential(
        conv_norm(inputs.STUDENT, width, 1), nn.Conv2d(width, width, 1, bias=False))
    # The slots that nothing was pushed to hold noise, which is what both codes compare with then.
    self._queues = {
        'pixel': torch.randn(classes, 20_000, width), 'region': torch.randn(classes, 2_000, width)}
    self._samples = {'pixel': 4_096 // classes + 1, 'region': 1_024 // classes + 1}
    self._pointers = {name: [0] * classes for name in self._queues}
    size = [side // 8 for side in batch['image'].shape[2:]]
    labels = F.interpolate(batch['label'][:, None].float(), size, mode='nearest')[:, 0].long()
    self._labels = labels.flatten(1)

  @torch.no_grad()
  def _push(self, rows):
    """Unit rows `(N, n, D)` of the teacher: 16 pixels and the mean of every class and image."""
    for image, labels in zip(rows, self._labels):
      for label in labels.unique().tolist():
        if label == 255:
          continue
        chosen = (labels == label).nonzero()[:, 0]
        region = F.normalize(image[chosen].mean(0, keepdim=True))
        drawn = image[chosen[torch.randperm(len(chosen))[:16]]]
        for name, new in (('pixel', drawn), ('region', region)):
          ring, start = self._queues[name][label], self._pointers[name][label]
          slots = (start + torch.arange(len(new))) % len(ring)
          ring[slots] = new
          self._pointers[name][label] = (start + len(new)) % len(ring)

  def _sample(self, name):
    queue, count = self._queues[name], self._samples[name]
    return queue[:, torch.randperm(queue.shape[1])[:count]].flatten(0, 1)

  def of_queues(self, student, teacher):
    """Memory-based distillation of embeddings, pixels and regions."""
    anchors, targets = pixels(self.head(student)), pixels(teacher)
    self._push(targets)
    valid, loss = self._labels != 255, 0.0
    for name in self._queues:
      contrast = self._sample(name)
      loss = loss + 0.1 * similarity_kl(anchors[valid], targets[valid], contrast, contrast, 0.1)
    return loss

  def forward(self, student, teacher):
    return (pixelwise_kl(student[0], teacher[0]) + cross_image_pixel(student[1], teacher[1])
            + self.of_queues(student[1], teacher[1]))

  def after(self, student, teacher):
    """What follows the step."""


METHODS = {'kd': KD, 'skd': SKD, 'cirkd': CIRKD}

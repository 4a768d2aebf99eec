"""The distillers of `our_distillers` in eager PyTorch, after the authors' codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks import inputs, torch_methods
from experiments.benchmarks.torch_losses import channel_wise, hierarchical_context, of_numpy
from experiments.benchmarks.worker import Work


def create(name, args) -> Work:
  """The distiller of a name on the taps of `inputs.taps`."""
  torch.manual_seed(0)
  student, teacher, batch = (
      {key: of_numpy(x, args.channels_last) for key, x in group.items()}
      for group in inputs.taps(name))
  for x in student.values():
    x.requires_grad_()
  method = METHODS[name](student, teacher, batch)
  trained = method.critic if name.startswith('holistic') else method
  if args.channels_last:
    trained.to(memory_format=torch.channels_last)

  def run():
    for x in (*student.values(), *trained.parameters()):
      x.grad = None
    method(student, teacher).backward()

  # Of the critic's params none are trained with the student.
  count = 0 if name == 'holistic' else sum(x.numel() for x in trained.parameters())
  return Work(run, facts=lambda _: {'parameters': count})


class _Projected(nn.Module):
  """A 1x1 convolution of the student's embedding, and a loss of two maps."""

  def __init__(self, loss):
    super().__init__()
    self.loss = loss
    self.projection = nn.Conv2d(inputs.STUDENT, inputs.TEACHER, 1, bias=False)

  def forward(self, student, teacher):
    return self.loss(self.projection(student['embedding']), teacher['embedding'])


class _Fusion(nn.Module):
  """Knowledge review's ABF."""

  def __init__(self, channels, middle, features, fuses):
    super().__init__()
    norm = lambda inside, outside, kernel: nn.Sequential(
        nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outside))
    self.reduce, self.expand = norm(channels, middle, 1), norm(middle, features, 3)
    self.attention = nn.Conv2d(2 * middle, 2, 1) if fuses else None

  def forward(self, x, deeper=None):
    x = self.reduce(x)
    if deeper is not None:
      deeper = F.interpolate(deeper, x.shape[2:], mode='nearest')
      z = torch.sigmoid(self.attention(torch.cat([x, deeper], 1)))
      x = x * z[:, :1] + deeper * z[:, 1:]
    return self.expand(x), x


class _Review(nn.Module):
  """The fused stages against the teacher's."""

  def __init__(self, student, teacher):
    super().__init__()
    widths = [x.shape[1] for x in student.values()]
    middle = min(512, widths[-1])
    self.blocks = nn.ModuleList(
        _Fusion(width, middle, x.shape[1], fuses=i + 1 < len(widths))
        for i, (width, x) in enumerate(zip(widths, teacher.values())))

  def forward(self, student, teacher):
    total, left = 0.0, None
    for block, ours, theirs in reversed(list(zip(
        self.blocks, student.values(), teacher.values()))):
      fused, left = block(ours, left)
      total = total + hierarchical_context(fused, theirs)
    return total


class _Memory(torch_methods.CIRKD):
  """CIRKD's queues alone."""

  def forward(self, student, teacher):
    return self.of_queues(student['embedding'], teacher['embedding'])


class _Holistic(torch_methods.SKD):
  """What the student minimises against the critic."""

  def forward(self, student, teacher):
    del teacher
    return self.score(student['logits'])


class _HolisticCritic(torch_methods.SKD):
  """What the critic minimises."""

  def forward(self, student, teacher):
    return self.critic_loss(student['logits'], teacher['logits'])


METHODS = {
    'fitnets': lambda *_: _Projected(F.mse_loss),
    'channel_wise_features': lambda *_: _Projected(channel_wise),
    'review': lambda student, teacher, _: _Review(student, teacher),
    'memory': lambda student, teacher, batch: _Memory(batch, inputs.CLASSES),
    'holistic': lambda student, teacher, batch: _Holistic(batch, inputs.CLASSES),
    'holistic_critic': lambda student, teacher, batch: _HolisticCritic(batch, inputs.CLASSES),
}

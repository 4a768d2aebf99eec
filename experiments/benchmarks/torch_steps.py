"""Forward passes and train steps of `our_steps` in eager PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks import inputs, torch_methods
from experiments.benchmarks.torch_losses import of_numpy
from experiments.benchmarks.torch_models import DeepLabV3
from experiments.benchmarks.worker import Work


def create(name, args) -> Work:
  """`inputs.Step`, of kind forward, step, or a method."""
  kind, model, size, dtype = inputs.Step.parse(name)
  layout = torch.channels_last if args.channels_last else torch.contiguous_format
  torch.manual_seed(0)
  images, labels = inputs.batch(size)
  batch = {'image': of_numpy(images, args.channels_last),
           'label': of_numpy(labels, args.channels_last).long()}
  create = lambda model: _Network(DeepLabV3(model, inputs.SCENES_CLASSES), dtype).to(
      memory_format=layout)
  network = create(model)
  count = sum(x.numel() for x in network.parameters())
  facts = lambda _: {'parameters': count}
  if kind == 'forward':
    network.eval()
    return Work(lambda: _forward(network, batch['image']), len(images), facts)
  teacher = None
  if kind != 'step':
    teacher = create('resnet101').eval()
  method = torch_methods.METHODS[kind](batch, inputs.SCENES_CLASSES) if teacher else None
  return Work(_Step(network, teacher, method, batch), len(images), facts)


class _Network(nn.Module):
  """A network that computes in a dtype, and what it returns in float32."""

  def __init__(self, network, dtype):
    super().__init__()
    self.network, self._dtype = network, getattr(torch, dtype)

  def forward(self, image):
    is_mixed = self._dtype != torch.float32
    with torch.autocast(image.device.type, self._dtype, enabled=is_mixed):
      taps = self.network(image)
    return [x.float() for x in taps]


@torch.no_grad()
def _forward(network, image):
  return network(image)


class _Step:
  """One step of SGD with momentum, as of `our_steps`."""

  def __init__(self, student, teacher, method, batch):
    self._student, self._teacher, self._method, self._batch = (
        student.train(), teacher, method, batch)
    trained = [*student.parameters(), *(method.parameters() if method else [])]
    decayed = [x for x in trained if x.ndim > 1]
    others = [x for x in trained if x.ndim <= 1]
    self._optimizer = torch.optim.SGD(
        [{'params': decayed, 'weight_decay': 1e-4}, {'params': others}], lr=1e-4, momentum=0.9)

  def __call__(self):
    batch = self._batch
    taps = self._student(batch['image'])
    size = batch['label'].shape[1:]
    loss = F.cross_entropy(
        F.interpolate(taps[0], size, mode='bilinear', align_corners=True), batch['label'],
        ignore_index=255)
    if self._method is not None:
      seen = _forward(self._teacher, batch['image'])
      loss = loss + self._method(taps, seen)
    self._optimizer.zero_grad()
    loss.backward()
    self._optimizer.step()
    if self._method is not None:
      self._method.after(taps, seen)
    return loss.item()

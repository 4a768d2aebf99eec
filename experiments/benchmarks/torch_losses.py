"""The losses of `our_losses` in eager PyTorch, as its users write them: whole tensors, NCHW."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from experiments.benchmarks import inputs
from experiments.benchmarks.worker import Work


def create(name, args) -> Work:
  """The loss of a name on its arrays of `inputs.arrays`, maps in one of PyTorch's layouts."""
  arrays = {key: of_numpy(x, args.channels_last) for key, x in inputs.arrays(name).items()}
  student = arrays.pop('student').requires_grad_()
  loss = LOSSES[name]

  def run():
    student.grad = None
    value = loss(student, *arrays.values())
    value.backward()
    return value

  return Work(run, facts=lambda value: {'value': value.item()})


def of_numpy(array, channels_last):
  """A tensor; maps `(N, H, W, C)` become `(N, C, H, W)`, contiguous or channels last in memory."""
  x = torch.from_numpy(array).to(torch.get_default_device())
  if x.ndim != 4:
    return x.long() if x.dtype == torch.int32 else x
  layout = torch.channels_last if channels_last else torch.contiguous_format
  return x.permute(0, 3, 1, 2).contiguous(memory_format=layout)


def pixelwise_kl(student, teacher, temperature=1.0):
  """Of the classes of every pixel."""
  values = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1),
                    reduction='none').sum(1)
  return temperature**2 * values.mean()


def channel_wise(student, teacher, temperature=4.0):
  """Of the pixels of every channel."""
  student, teacher = (x.flatten(2) / temperature for x in (student, teacher))
  values = F.kl_div(F.log_softmax(student, 2), F.softmax(teacher, 2), reduction='sum')
  return temperature**2 * values / (student.shape[0] * student.shape[1])


def attention(x):
  """Normalised attention maps `(N, H W)`."""
  return F.normalize(x.pow(2).mean(1).flatten(1))


def attention_transfer(student, teacher):
  """Of `attention`."""
  return F.mse_loss(attention(student), attention(teacher))


def affinities(x):
  """Cosines `(N, n, n)` of all pairs of pixels."""
  x = x.flatten(2)
  x = x / (x.norm(dim=1, keepdim=True) + 1e-8)
  return torch.bmm(x.transpose(1, 2), x)


def pairwise_affinity(student, teacher):
  """Every pixel a node."""
  return F.mse_loss(affinities(student), affinities(teacher))


def pairwise_affinity_nodes(student, teacher):
  """Nodes of half the side, as in SKD's script."""
  pool = lambda x: F.max_pool2d(x, x.shape[2] // 2, ceil_mode=True)
  return pairwise_affinity(pool(student), pool(teacher))


def intra_class_variation(student, teacher, labels):
  """Cosines of pixels and the centres of their classes."""
  size = student.shape[2:]
  labels = F.interpolate(labels[:, None].float(), size, mode='nearest').flatten(1).long()
  valid = labels != 255
  labels = labels.masked_fill(~valid, 0)
  member = F.one_hot(labels, inputs.CLASSES).float() * valid[..., None]
  counts = member.sum(1).clamp(min=1)

  def similarity(x):
    x = x.flatten(2).transpose(1, 2)
    centres = torch.bmm(member.transpose(1, 2), x) / counts[..., None]
    own = torch.gather(centres, 1, labels[..., None].expand(-1, -1, x.shape[2]))
    return F.cosine_similarity(x, own, dim=2) * valid

  return F.mse_loss(similarity(student), similarity(teacher))


def double_similarity_pixel(student, teacher, student_logits, teacher_logits):
  """How attention changes from layer to layer."""
  change = lambda first, second: F.normalize(attention(second) - attention(first))
  return F.mse_loss(change(student_logits, student), change(teacher_logits, teacher))


def double_similarity_category(student, teacher, temperature=4.0):
  """Overlaps of the activations of classes."""
  def overlaps(x):
    x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False).flatten(2)
    x = F.softmax(x / temperature, 2)
    return torch.bmm(x, x.transpose(1, 2))
  return F.mse_loss(overlaps(student), overlaps(teacher))


def decoupled_kd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
  """The labelled class against the rest, and the rest among itself."""
  valid = labels != 255
  index = labels.masked_fill(~valid, 0)[:, None]
  own = torch.zeros_like(student, dtype=torch.bool).scatter_(1, index, True)
  lowest = torch.finfo(student.dtype).min

  def parts(x):
    x = x / temperature
    rest = x.masked_fill(own, lowest)
    both = torch.stack([x.gather(1, index)[:, 0], torch.logsumexp(rest, 1)], 1)
    return F.log_softmax(both, 1), F.log_softmax(rest, 1)

  def divergence(student, teacher):
    values = F.kl_div(student, teacher, reduction='none', log_target=True).sum(1)
    return temperature**2 * values[valid].mean()

  (ours, our_rest), (theirs, their_rest) = parts(student), parts(teacher)
  return alpha * divergence(ours, theirs) + beta * divergence(our_rest, their_rest)


def upsampled(logits, labels):
  """At label size."""
  return F.interpolate(logits, labels.shape[1:], mode='bilinear', align_corners=True)


def cross_entropy(student, labels):
  """At label size."""
  return F.cross_entropy(upsampled(student, labels), labels, ignore_index=255)


def ohem_cross_entropy(student, labels, threshold=0.7, min_kept=100_000):
  """Of the hard pixels."""
  values = F.cross_entropy(upsampled(student, labels), labels, ignore_index=255, reduction='none')
  valid = labels != 255
  with torch.no_grad():
    probability = torch.exp(-values[valid])
    kth = torch.kthvalue(probability, min(min_kept, len(probability))).values.item()
    cutoff = max(kth, threshold)
  return values[valid][probability <= cutoff].mean()


def cross_image(student, teacher, temperature=0.1):
  """KL of similarities of unit rows `(N, n, D)`, image by image, as CIRKD's code has it."""
  total, images = 0.0, len(student)
  for i in range(images):
    for j in range(images):
      total = total + similarity_kl(student[i], teacher[i], student[j], teacher[j], temperature)
  return total / images**2


def similarity_kl(student, teacher, student_columns, teacher_columns, temperature):
  """Mean over rows of the KL of their similarities to columns."""
  ours, theirs = student @ student_columns.T, teacher @ teacher_columns.T
  return F.kl_div(F.log_softmax(ours / temperature, 1), F.softmax(theirs / temperature, 1),
                  reduction='batchmean')


def pixels(x):
  """Unit rows `(N, H W, C)`."""
  return F.normalize(x, dim=1).flatten(2).transpose(1, 2)


def cross_image_pixel(student, teacher):
  """Of all pixels of the batch."""
  return cross_image(pixels(student), pixels(teacher))


def channel_vectors(x):
  """Unit rows `(N, C, P)` of pooled maps."""
  return F.normalize(F.avg_pool2d(x, 4).flatten(2), dim=2)


def cross_image_channel(student, teacher):
  """Of all channels of the batch."""
  return cross_image(channel_vectors(student), channel_vectors(teacher))


def channel_mse(student, teacher):
  """Of corresponding channels."""
  return F.mse_loss(channel_vectors(student), channel_vectors(teacher))


def memory_similarity(student, teacher, contrast):
  """Of all pixels to remembered embeddings."""
  rows = lambda x: pixels(x).flatten(0, 1)
  return similarity_kl(rows(student), rows(teacher), contrast, contrast, 0.1)


def hierarchical_context(student, teacher):
  """Knowledge review's, over levels 4, 2 and 1."""
  total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
  for level in (4, 2, 1):
    weight /= 2
    weights += weight
    total = total + weight * F.mse_loss(
        F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(teacher, level))
  return total / weights


def feature_adaptation(student, code):
  """Distance of directions."""
  return (F.normalize(student, dim=1) - F.normalize(code, dim=1)).norm(dim=1).mean()


def autoencoder_reconstruction(reconstruction, features, code):
  """Error, and the absolute sum of the code."""
  return F.mse_loss(reconstruction, features) + 1e-7 * code.abs().sum()


def _statistics(x):
  mean = x.mean((0, 2, 3), keepdim=True)
  return mean, x.std((0, 2, 3), keepdim=True)


def standardise(x):
  """Channel by channel."""
  mean, deviation = _statistics(x)
  return (x - mean) / (deviation + 1e-6)


def pearson_features(student, teacher):
  """PKD's."""
  return F.mse_loss(standardise(student), standardise(teacher)) / 2


def align_statistics(student, teacher):
  """How far CrossKD's aligned map is from 0."""
  mean, deviation = _statistics(teacher)
  return (standardise(student) * deviation + mean).pow(2).mean()


def quality_focal(student, teacher):
  """Against probabilities of another model."""
  scores = teacher.sigmoid()
  values = F.binary_cross_entropy_with_logits(student, scores, reduction='none')
  return (values * (student.sigmoid() - scores).abs()).sum()


def sigmoid_focal(student, teacher):
  """RetinaNet's."""
  target = (teacher > 2).to(student.dtype)
  p = student.sigmoid()
  weight = 0.25 * target * (1 - p).pow(2) + 0.75 * (1 - target) * p.pow(2)
  return (weight * F.binary_cross_entropy_with_logits(student, target, reduction='none')).sum()


def _sides(student, teacher, temperature):
  """KL `(A, 4, bins)` of the distributions of boxes' sides."""
  student, teacher = (x.reshape(-1, 4, inputs.BINS) / temperature for x in (student, teacher))
  return temperature**2 * F.kl_div(
      F.log_softmax(student, 2), F.softmax(teacher, 2), reduction='none')


def localization_distillation(student, teacher):
  """LD's."""
  return _sides(student, teacher, 10.0).mean(2).sum() / 4


def cross_head_distribution(student, teacher):
  """CrossKD's of GFL."""
  return _sides(student, teacher, 1.0).sum(2).mean()


def distribution_focal(student, targets):
  """GFL's."""
  left = targets.long()
  to_right = targets - left
  cross = lambda index: F.cross_entropy(student, index, reduction='none')
  return (cross(left) * (1 - to_right) + cross(left + 1) * to_right).sum()


def smooth_l1(student, teacher):
  """RetinaNet's L1."""
  return F.l1_loss(student, teacher, reduction='sum')


def _overlaps(a, b):
  """IoU, union, and the smallest box around both."""
  low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
  inside = (high - low).clamp(min=0).prod(1)
  area = lambda x: (x[:, 2:] - x[:, :2]).prod(1)
  union = (area(a) + area(b) - inside).clamp(min=1e-6)
  around = torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])
  return inside / union, union, around


def giou(student, teacher):
  """Summed over boxes."""
  iou, union, (low, high) = _overlaps(student, teacher)
  hull = (high - low).prod(1).clamp(min=1e-6)
  return (1 - iou + (hull - union) / hull).sum()


def diou(student, teacher):
  """Summed over boxes."""
  iou, _, (low, high) = _overlaps(student, teacher)
  centre = lambda x: (x[:, :2] + x[:, 2:]) / 2
  distance = (centre(student) - centre(teacher)).pow(2).sum(1)
  return (1 - iou + distance / (high - low).pow(2).sum(1).clamp(min=1e-6)).sum()


def iou_log(student, teacher):
  """Summed over boxes."""
  return -_overlaps(student, teacher)[0].clamp(min=1e-6).log().sum()


LOSSES = {
    'pixelwise_kl': pixelwise_kl, 'channel_wise_logits': channel_wise,
    'channel_wise': channel_wise, 'attention_transfer': attention_transfer,
    'fitnets': F.mse_loss, 'pairwise_affinity': pairwise_affinity,
    'pairwise_affinity_nodes': pairwise_affinity_nodes,
    'intra_class_variation': intra_class_variation,
    'double_similarity_pixel': double_similarity_pixel,
    'double_similarity_category': double_similarity_category, 'decoupled_kd': decoupled_kd,
    'cross_entropy': cross_entropy, 'ohem_cross_entropy': ohem_cross_entropy,
    'cross_image_pixel': cross_image_pixel, 'cross_image_channel': cross_image_channel,
    'channel_mse': channel_mse, 'memory_similarity_pixel': memory_similarity,
    'memory_similarity_region': memory_similarity, 'hierarchical_context': hierarchical_context,
    'feature_adaptation': feature_adaptation,
    'autoencoder_reconstruction': autoencoder_reconstruction,
    'pearson_features': pearson_features, 'align_statistics': align_statistics,
    'quality_focal': quality_focal, 'cross_head_classification': quality_focal,
    'sigmoid_focal': sigmoid_focal, 'localization_distillation': localization_distillation,
    'cross_head_distribution': cross_head_distribution,
    'distribution_focal': distribution_focal, 'smooth_l1': smooth_l1, 'giou': giou, 'diou': diou,
    'iou_log': iou_log,
}

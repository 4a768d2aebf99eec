"""The mIoU in the titles of pictures is that of this checkpoint, split, data and inference."""

import json

import pytest

from configs import quickstart
from kdseg_jax.inference import Model
from kdseg_jax.inference.evaluation import recorded_metric


@pytest.fixture
def recorded(tmp_path):
  rows = [('evaluation', 10, 0.3), ('evaluation', 10, 0.1), ('evaluation', 20, 0.2),
          ('evaluation', 30, None), ('train', 40, 0.9)]
  (tmp_path / 'metrics.jsonl').write_text(''.join(
      json.dumps({'phase': phase, 'step': step, 'mean_iou': value}) + '\n'
      for phase, step, value in rows))
  saved = quickstart.get_config()  # evaluates on test

  def look(step, split='test', **changes):
    config = saved.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(changes)
    model = Model(None, {}, (), saved, workdir=str(tmp_path), step=step + 1, train_step=step)
    return recorded_metric(model, config, split, 'mean_iou')
  return look


def test_it_is_the_latest_of_the_step(recorded):
  assert recorded(10) == 0.1 and recorded(20) == 0.2
  assert recorded(30) is None and recorded(40) is None


@pytest.mark.parametrize('changes', [
    {'split': 'val'}, {'split': None}, {'eval.flip': True}, {'eval.pad_multiple': 32},
    {'data.root': 'elsewhere'}, {'data.size': (32, 32)}, {'task.absent_as_zero': True},
    {'data.name': 'camvid'}, {'data.tfds.num_classes': 5}, {'data.options': {'digits': 3}}])
def test_what_was_measured_otherwise_is_not_shown(recorded, changes):
  assert recorded(20, **changes) is None


def test_that_of_a_few_images_is_not_that_of_the_split(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"phase": "evaluation", "step": 20, "mean_iou": 0.2}\n')
  saved, asked = quickstart.get_config(), quickstart.get_config()
  saved.eval.limit = 8
  model = Model(None, {}, (), saved, workdir=str(tmp_path), train_step=20)
  assert recorded_metric(model, asked, 'test', 'mean_iou') is None
  asked.eval.limit = 8
  assert recorded_metric(model, asked, 'test', 'mean_iou') == 0.2


def test_how_images_are_batched_does_not_matter(recorded):
  assert recorded(20, **{'eval.batch_size': 3, 'eval.limit': 5}) == 0.2

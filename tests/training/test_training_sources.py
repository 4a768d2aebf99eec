"""Which examples a run learns from, and in which place they stand."""

import pytest

from configs import quickstart
from kdseg_jax.training import experiment


def ids_of(source):
  return [example['image_id'] for example in source]


def config_of(**fields):
  config = quickstart.get_config('role=teacher,runlocal')
  config.data.update(options={'length': 10}, train_limit=0, size=(32, 32))
  config.data.update(fields)
  return config


@pytest.mark.parametrize(('limit', 'chosen'), [
    (0, range(10)), (4, (0, 2, 5, 7)), (3, (0, 3, 6)), (9, range(9)), (10, range(10)),
    (30, range(10))])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_limit_takes_examples_at_even_distances_of_the_split(limit, chosen, split):
  source = experiment.create_train_source(config_of(train_limit=limit, train_split=split))
  assert ids_of(source) == [f'{split}_{index:05d}' for index in chosen]


@pytest.mark.parametrize('share', [None, 0.25])
def test_the_rest_are_those_that_a_limit_leaves_out(share):
  source = experiment.create_train_source(config_of(
      train_limit=4, unlabelled='rest', unlabelled_share=share))
  assert ids_of(source.first) == [f'train_{index:05d}' for index in (0, 2, 5, 7)]
  assert ids_of(source.second) == [f'train_{index:05d}' for index in (1, 3, 4, 6, 8, 9)]
  assert ids_of(source) == ids_of(source.first) + ids_of(source.second)
  assert source.share == share
  assert all((example['label'] == 255).all() for example in source.second)
  assert not any((example['label'] == 255).all() for example in source.first)

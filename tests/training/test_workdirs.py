"""What a work directory tells of its run."""

import pytest

from configs import quickstart
from kdseg_jax import config_files
from kdseg_jax.data.json_files import write_json
from kdseg_jax.training import workdirs


@pytest.mark.parametrize('evaluated, checkpoints, finished', [
    (7, [4, 7], True), (None, [7], False), (4, [7], False),
    (7, [], False), (7, [6], False), (7, [9], True), (9, [9], False)])
def test_a_run_is_finished_with_its_last_checkpoint_and_the_evaluation_after_it(
    evaluated, checkpoints, finished, monkeypatch):
  run = quickstart.get_config('role=student')
  run.train.steps = 7
  rows = [{'phase': 'train', 'step': 7}, {'phase': 'evaluation', 'step': evaluated}]
  for name, value in (('read_rows', rows), ('saved_steps', checkpoints)):
    monkeypatch.setattr(workdirs, name, lambda workdir, value=value: value)
  assert workdirs.is_finished(run, 'somewhere') == finished


@pytest.mark.parametrize('field, value, matters', [
    ('log.every_steps', 7, False), ('checkpoint.keep', 9, False), ('memory_limit_gb', 3.0, False),
    ('eval.pictures', 0, False), ('prepare.folder', 'elsewhere', False),
    ('teacher.min_metric', 0.3, False), ('teacher.checkpoint', 'link', False),
    ('teacher.checkpoint', 'other', True), ('prepare.steps', 9, True), ('eval.limit', 3, True),
    ('seed', 3, True), ('optimizer.momentum', 0.5, True)])
def test_a_run_has_another_config_where_its_result_would_be_another(
    field, value, matters, tmp_path, monkeypatch):
  monkeypatch.setattr(workdirs, 'saved_steps', lambda workdir: [1])
  for name in ('teacher', 'other'):
    (tmp_path / name).mkdir()
  (tmp_path / 'link').symlink_to(tmp_path / 'teacher')
  config = quickstart.get_config('method=kd')
  config.teacher.checkpoint = str(tmp_path / 'teacher')
  write_json(str(tmp_path / config_files.FILE), config_files.to_dict(config))
  assert not workdirs.changes_of(config, str(tmp_path))
  config.update_from_flattened_dict(
      {field: str(tmp_path / value) if field == 'teacher.checkpoint' else value})
  assert bool(workdirs.changes_of(config, str(tmp_path))) == matters

"""What a study does is what its config says, without a step of training."""

import json

import numpy as np
import pytest

from configs import common, quickstart
from kdseg_jax import distillers, study
from kdseg_jax.studies import plan as study_plan

SEEDS = (7, 2, 5)
SCORES = {('alone', 7): 0.30, ('alone', 2): 0.10, ('alone', 5): 0.20,
          ('kd', 7): 0.31, ('kd', 2): 0.15, ('kd', 5): 0.22}  # sorted otherwise than the seeds


def study_of():
  config = quickstart.get_config('role=student,runlocal')
  config.train.steps, config.optimizer.power = 12, 2.0
  return common.study(config, title='', description='', seeds=SEEDS,
                      students={'alone': {}, 'kd': {'method': 'kd', 'optimizer': {'power': 3.0}}})


def test_a_report_pairs_every_student_with_the_baseline_of_its_seed(tmp_path, monkeypatch):
  config = study_of()
  monkeypatch.setattr(study, 'inference_cost', lambda *_: {})
  for (name, seed), score in SCORES.items():
    folder = tmp_path / 'students' / name / f'seed{seed}'
    folder.mkdir(parents=True)
    (folder / 'metrics.jsonl').write_text(''.join(
        json.dumps({'phase': 'evaluation', 'step': step, 'mean_iou': value,
                    'per_class_iou': [value] * 11}) + '\n'
        for step, value in ((6, score + 0.5), (12, score))))
  report = study.make_report(config, str(tmp_path))
  kd = report['students']['kd']
  assert report['seeds'] == list(SEEDS) and kd['mean_iou_of_seeds'] == [0.31, 0.15, 0.22]
  differences = [SCORES['kd', seed] - SCORES['alone', seed] for seed in SEEDS]
  assert kd['paired']['difference'] == pytest.approx(np.mean(differences))
  half = 4.302652729911275 * np.std(differences, ddof=1) / np.sqrt(3)  # t, 97.5%, 2 degrees
  assert kd['paired']['interval'] == pytest.approx(
      [np.mean(differences) - half, np.mean(differences) + half])
  assert kd['mean_iou'] == pytest.approx(0.68 / 3)
  assert kd['best_of_many'] == pytest.approx(0.68 / 3 + 0.5)
  assert kd['per_class_difference']['background'] == pytest.approx(np.mean(differences))


def test_a_student_of_a_study_has_its_own_fields_and_seed_and_the_shared_data():
  config = study_of()
  config.seed = 40
  for name, power, terms in (('alone', 2.0, {}), ('kd', 3.0, distillers.terms_of('kd'))):
    for seed in SEEDS:
      own = study_plan.student_config(config, name, seed)
      assert (own.seed, own.data.seed, own.optimizer.power) == (seed, 40, power)
      assert own.distill.to_dict() == terms and own.train.split_teacher
  assert study_plan.student_workdir('w', 'kd', 2) != study_plan.student_workdir('w', 'kd', 7)

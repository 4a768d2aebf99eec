"""What a study consists of: the config and work directory of each run, and what is left to do."""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from kdseg_jax import config_fields, distillers, names, parallel
from kdseg_jax.errors import UserError
from kdseg_jax.training import config_check, freezing
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training.optimizers import create_optimizer
from kdseg_jax.training.run import data_seed
from kdseg_jax.training.workdirs import changes_of, is_finished

# What a student may have of its own; everything else is the same for all.
OWN_SECTIONS = ('student', 'distill', 'optimizer', 'critic', 'prepare', 'data')
# Of the section data: more or fewer images, but the same ones to be evaluated on.
_OWN_DATA = ('train_limit', 'unlabelled', 'unlabelled_share')


def student_config(config: ConfigDict, name: str, seed: int) -> ConfigDict:
  """The config of one run of a study: what `train` would take to do the same alone.

  The data's order and augmentation are the study's, for all students that read the same images; the
  seed is that of the initialisation and of every draw in the steps.

  Raises:
    ValueError: unknown student, or a section that students may not have of their own.
  """
  names.require(name, config.study.students, 'student of the study')
  own = config.study.students[name]
  for section in own:
    names.require(section, OWN_SECTIONS, f'section of the student {name!r}')
  for section in ('optimizer', 'critic', 'prepare'):  # the others are checked by their factories
    _check_fields(own.get(section, {}), config[section], f'{section} of the student {name!r}')
  for field in own.get('data', {}):
    names.require(field, _OWN_DATA, f'data field of the student {name!r}')
  run = config.copy_and_resolve_references().unlock()
  del run.study
  run.distill = ConfigDict()
  for section in own:
    run[section].update(own[section])
  run.seed = seed
  run.data.seed = data_seed(config)
  run.train.split_teacher = True
  return run.lock()


def student_names(config: ConfigDict) -> list[str]:
  """The students of a study, in the order in which they were written."""
  order = {name: i for i, name in enumerate(config.study.order)}
  return sorted(config.study.students, key=lambda name: order.get(name, len(order)))


def check_study(config: ConfigDict) -> None:
  """Checks what can be known of a study before anything is trained.

  Raises:
    ValueError: an unknown baseline, no or equal seeds, or a student that cannot be built.
  """
  config_fields.check(config)
  names.require(config.study.baseline, config.study.students, 'baseline of the study')
  mesh = parallel.create_mesh()
  requires = {}
  for name in config.study.students:
    run = student_config(config, name, config.study.seeds[0])
    config_check.check_config(run, mesh)
    experiments.create_inference(run)
    student = experiments.create_model(run.student, num_classes=2)
    freezing.check_patterns(
        tuple(run.train.freeze), experiments.abstract_variables(student)['params'])
    requires[name] = distillers.create(run.distill.to_dict()).requires
    for optimizer in (run.optimizer, run.critic.optimizer, run.prepare.optimizer):
      create_optimizer(optimizer, run.train.steps)
    experiments.create_train_source(run)
  experiments.create_source(config, config.eval.split)
  _check_teacher_mode(requires)


def _check_teacher_mode(requires):
  """Refuses students of which some only have the teacher normalise by the batch."""
  by_batch, by_statistics = (
      [name for name, own in requires.items()
       if own.teacher and own.teacher_batch_statistics == mode] for mode in (True, False))
  if by_batch and by_statistics:
    raise UserError(
        f'teacher_batch_statistics is True for {by_batch[0]!r} and False for {by_statistics[0]!r}, '
        'and one pass of the teacher serves all students of a study. Make it the same for all, or '
        'make two studies of them.')


def student_workdir(workdir: str, name: str, seed: int) -> str:
  """Work directory of one run of a study."""
  return os.path.join(workdir, 'students', name, f'seed{seed}')


def unfinished(config: ConfigDict, workdir: str) -> dict[str, dict[int, ConfigDict]]:
  """name -> seed -> config of the runs that are not at their end.

  Raises:
    ValueError: a run was trained with another config.
  """
  found: dict[str, dict[int, ConfigDict]] = {}
  for name in student_names(config):
    for seed in config.study.seeds:
      run = student_config(config, name, seed)
      folder = student_workdir(workdir, name, seed)
      changes = changes_of(run, folder)
      if changes:
        raise UserError(
            f'{folder} was trained with another config:\n  ' + '\n  '.join(changes)
            + '\nUse another --workdir, or remove that folder to train the student again.')
      if not is_finished(run, folder):
        found.setdefault(name, {})[seed] = run
  return found


def _check_fields(own, known, where):
  """Raises ValueError for a field, at any depth, that the known ones lack."""
  for field, value in own.items():
    names.require(field, known, f'field of {where}')
    if isinstance(value, ConfigDict):
      _check_fields(value, known[field], where)

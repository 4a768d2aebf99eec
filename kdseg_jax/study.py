"""A study: students side by side against one teacher pass, reported as paired differences.

python -m kdseg_jax.study --config=experiments/scenes_core.py --workdir=runs/scenes_core
"""

import os
import shlex
import statistics
import sys

import jax

from kdseg_jax import inference, models, program, references, tasks
from kdseg_jax.data.json_files import finite, read_json, read_rows, write_json
from kdseg_jax.errors import UserError
from kdseg_jax.inference.evaluation import throughput
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import report as study_report
from kdseg_jax.studies import side_by_side, tuning
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import loop, shapes


def define_flags(options):
  """`--workdir`."""
  program.define_workdir(options)


def main(options, arguments):
  """Trains what is not finished, then writes `report.json` and `report.md`."""
  program.no_arguments(arguments)
  config, workdir = options.config, program.require_workdir(options)
  if config is None or 'study' not in config:
    raise UserError('--config must be a study, e.g. --config=experiments/scenes_core.py')
  study_plan.check_study(config)
  if config.study.tune:
    tuning.check(config)
  shapes.check_study(config, {
      name: study_plan.student_config(config, name, config.study.seeds[0])
      for name in study_plan.student_names(config)}, allow_class_names=options.allow_class_names)
  allowed = {'allow_class_names': options.allow_class_names,
             'allow_imports': options.allow_imports}
  if not (train_teacher(config, workdir, **allowed) and tune(config, workdir, **allowed)
          and side_by_side.train(config, workdir, **allowed)):
    print(f'Stopped; the same command goes on from what was saved. Work directory: {workdir}')
    return
  report = make_report(config, workdir, allow_imports=options.allow_imports)
  text = study_report.markdown(
      report, metric=tasks.find(config.task.name).main_metric, title=config.study.title,
      command=shlex.join(['python', '-m', 'kdseg_jax.study', *map(_as_typed, sys.argv[1:])]))
  if jax.process_index():
    return
  write_json(os.path.join(workdir, 'report.json'), finite(report))
  with open(os.path.join(workdir, 'report.md'), 'w') as file:
    file.write(text)
  print(f'\n{text}\nReport: {workdir}/report.md and report.json')


def _as_typed(argument):
  """A recipe of the checkout by its path there: launch.sh has found it from the caller's folder."""
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  return argument.replace(f'--config={root}{os.sep}', '--config=')


def train_teacher(config, workdir, **allowed):
  """Trains the study's own teacher if the config names none; False if told to stop."""
  if config.teacher.checkpoint or not config.study.teacher:
    return True
  config.teacher.checkpoint = os.path.join(workdir, 'teacher')
  return loop.train_teacher(config.study.teacher, config.teacher.checkpoint, **allowed)


def tune(config, workdir, **allowed):
  """Chooses what `config.study.tune` asks for; False if told to stop."""
  return not config.study.tune or tuning.tune(
      config, workdir, tasks.find(config.task.name).main_metric, **allowed) is not None


def make_report(config, workdir, *, allow_imports=()):
  """The report of finished students, from what their work directories hold."""
  allow_imports = (*allow_imports, *references.named_in(config))
  students, costs = {}, {}
  for name in study_plan.student_names(config):
    runs = [study_plan.student_config(config, name, seed) for seed in config.study.seeds]
    folders = [study_plan.student_workdir(workdir, name, seed) for seed in config.study.seeds]
    rows = [read_rows(folder) for folder in folders]
    model = runs[0].student.to_json()
    if model not in costs:
      costs[model] = inference_cost(runs[0], folders[0], allow_imports)
    cost = read_json(os.path.join(workdir, 'students', name, 'cost.json'))
    seconds = [row['step_seconds'] for run in rows for row in run
               if row['phase'] == 'train' and 'step_seconds' in row]
    students[name] = {
        'evaluations': [[r for r in run if r['phase'] == 'evaluation'] for run in rows],
        'training': _training_cost(seconds, cost), 'inference': costs[model]}
  source = experiments.create_source(config, config.eval.split)
  task = experiments.create_task(config, len(source.classes))
  return study_report.build(
      students, baseline=config.study.baseline, metric=task.main_metric, classes=source.classes,
      seeds=config.study.seeds, teacher=teacher_entry(config, workdir, allow_imports),
      shared={'description': config.study.description, 'steps': config.train.steps,
              'split': config.eval.split,
              'tuning': read_json(os.path.join(workdir, 'tuning.json')) if (
                  config.study.tune) else {}})


def teacher_entry(config, workdir, allow_imports=()):
  """Metrics and costs of the teacher; None where no student reads one."""
  metrics = read_json(os.path.join(workdir, 'teacher.json')).get('metrics')
  if metrics is None:
    return None
  cost = read_json(os.path.join(workdir, 'teacher_cost.json'))
  return metrics | {
      'training': _training_cost([cost['step_seconds']] if cost else [], cost),
      'inference': inference_cost(config, config.teacher.checkpoint, allow_imports)}


def inference_cost(config, workdir, allow_imports=()):
  """Parameters, multiply-adds and images/s of a trained model on the images of an evaluation."""
  model = inference.load(workdir, checkpoint='latest', views=inference.Inference(),
                         allow_imports=allow_imports)
  source = experiments.create_evaluation_source(config, config.eval.split)
  image = source[0]['image'][None]
  return {**models.complexity(model.module, image.shape[1:3])._asdict(),
          'images_per_second': throughput(model, image)}


def _training_cost(step_seconds, cost):
  peak = cost.get('peak_bytes')
  return {'steps_per_second': 1 / statistics.median(step_seconds) if step_seconds else None,
          'peak_megabytes': None if peak is None else peak / 1e6,
          'extra_params': cost.get('extra_params')}


PROGRAM = program.Program(main, define_flags)

if __name__ == '__main__':
  PROGRAM.run()

"""What a study saves: six students beside each other against six runs one after the other.

Command: .venv/bin/python experiments/benchmarks/side_by_side.py
Result: experiments/benchmarks/side_by_side.md

DeepLabV3-ResNet-101 as the teacher (untrained: its weights do not change the time), six
DeepLabV3-ResNet-18 students of width 0.5 that all read it, crops of 128x128. Both ways run in one
process, the study first, so that the runs find what jax has cached.
"""

import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402
from kdseg_jax.data.json_files import read_rows  # noqa: E402
from kdseg_jax.report import tables  # noqa: E402
from kdseg_jax.studies import plan as study_plan  # noqa: E402
from kdseg_jax.studies import side_by_side  # noqa: E402
from kdseg_jax.training import loop  # noqa: E402
from kdseg_jax.training.run import read_json  # noqa: E402

STEPS = 40
STUDENTS = {
    'pixelwise, T=1': {'method': 'pixelwise'},
    'pixelwise, T=2': {'method': 'pixelwise', 'distill': {'pixelwise': {'temperature': 2.0}}},
    'pixelwise, T=4': {'method': 'pixelwise', 'distill': {'pixelwise': {'temperature': 4.0}}},
    'pairwise': {'method': 'pairwise'},
    'pairwise, 2x2': {'method': 'pairwise', 'distill': {'pairwise': {'node_size': 2}}},
    'both': {'method': 'pixelwise+pairwise'},
}


def create_config(**student):
  """`STEPS` steps of four crops, logged one by one, evaluated on four images."""
  config = common.segmentation()
  config.data.size = (128, 128)
  config.augmentation.update(crop=(128, 128), scale=())
  config.train.update(steps=STEPS, batch_size=4)
  config.eval.update(split='val', every_steps=0, batch_size=4, limit=4)
  config.checkpoint.every_steps = 0
  config.log.every_steps = 1
  config.student.update(aux=False, **student)
  return config


def main():
  """Prints the table."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    teacher = create_config(name='deeplabv3_resnet101')
    teacher.train.steps = 1
    loop.train(teacher, str(folder / 'teacher'))
    study = create_config(name='deeplabv3_resnet18', width=0.5)
    study.teacher.checkpoint = str(folder / 'teacher')
    common.study(study, title='', description='', students=STUDENTS, seeds=(0,),
                 baseline='pairwise')
    start = time.perf_counter()
    side_by_side.train(study, str(folder / 'study'))
    together = time.perf_counter() - start
    start = time.perf_counter()
    for name in STUDENTS:
      config = study_plan.student_config(study, name, 0).unlock()
      config.train.split_teacher = False
      loop.train(config, str(folder / name))
    apart = time.perf_counter() - start
    steps = lambda path: sum(
        row.get('step_seconds', 0) for row in read_rows(path) if row['phase'] == 'train')
    steps_apart = sum(steps(str(folder / name)) for name in STUDENTS)
    steps_together = study_steps(folder / 'study', steps)
  print(tables.table(['', 'together, s', 'apart, s', 'ratio'], [
      ('all, with loading and compiling', f'{together:.0f}', f'{apart:.0f}',
       f'{together / apart:.2f}'),
      (f'the last {STEPS - 1} steps', f'{steps_together:.1f}', f'{steps_apart:.1f}',
       f'{steps_together / steps_apart:.2f}')]))


def study_steps(workdir, steps):
  """Seconds of the teacher's passes and of all students' steps, but the first, in a study."""
  teacher = read_json(str(workdir / 'teacher_cost.json'))['step_seconds']
  return teacher * (STEPS - 1) + sum(
      steps(study_plan.student_workdir(str(workdir), name, 0)) for name in STUDENTS)


if __name__ == '__main__':
  main()

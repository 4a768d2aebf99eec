"""What helps in knowledge adaptation? Its parts, and what its paper compares it with, on CamVid.

Of He et al., CVPR 2019: the student alone; knowledge distillation; FitNets; the feature adaptation
alone; the affinity alone, of the features themselves, resized; both; and feature adaptation with a
tenth of its weight, alone and in both. All at 120x160: MobileNetV2 of half the width without
pyramid and decoder, at output stride 16, of a DeepLabV3+-MobileNetV2 teacher that starts from
ImageNet weights. One autoencoder serves all. The learning rate of every student is chosen by the
same rule, see `TUNE`. With the argument `temperatures` the students are those of the paper's study
of distillation: alone, and at the temperatures 2, 4 and 6.
Results: experiments/adaptation_parts.md
Data: as of configs/camvid.py, in $KDSEG_DATA; val is tuned on, test reported. Where only train and
val are at hand, the second command makes such a folder: the last fifth of every sequence of train
becomes val, and val test.
Commands:
  ./launch.sh study --config=experiments/adaptation_parts.py --workdir=runs/adaptation_parts
  .venv/bin/python -m experiments.adaptation_parts <camvid> <folder>
Where it differs from the paper: FitNets passes a learned 1x1 convolution, as the widths differ, and
has the weight of CIRKD's scripts; the student starts from noise; the autoencoder is trained for 100
steps, more than two epochs of so few images.
"""

import itertools
import pathlib
import sys

from kdseg_jax.recipes import camvid, common

WIDTH = 0.5
ARGUMENTS = {'steps': 1_000, 'teacher_steps': 1_000, 'seeds': 3, 'size': 120, 'runlocal': False}
TUNE = {
    'field': 'optimizer.learning_rate', 'grid': (0.01, 0.03, 0.09), 'extend': 4, 'split': 'val',
    'seeds': (1_000,), 'data_seed': 1_000}
RESIZED = {'resize': True}


def kd(temperature):
  """Knowledge distillation at a temperature; the student's logits at the size of the teacher's."""
  return {'method': 'kd', 'distill': {'kd': {'temperature': float(temperature), **RESIZED}}}


STUDENTS = {
    'alone': {},
    'kd': kd(4),
    'fitnets': {'method': 'fitnets', 'distill': {'fitnets': RESIZED}},
    'features': {'method': 'feature_adaptation'},
    'affinity': {'method': 'affinity_adaptation',
                 'distill': {'affinity_adaptation': {'autoencoder': False}}},
    'both': {'method': 'adaptation'},
    # A tenth of the paper's weight, 50.
    'features_5': {'method': 'feature_adaptation@5'},
    'both_5': {'method': 'adaptation', 'distill': {'feature_adaptation': {'weight': 5.0}}},
}
TEMPERATURES = {'alone': {}, **{f'kd_{temperature}': kd(temperature) for temperature in (2, 4, 6)}}


def get_config(arg=None):
  """Arguments: those of `ARGUMENTS`, see `study`, and temperatures."""
  arg = common.parse_arg(arg, **ARGUMENTS, temperatures=False)
  if arg.temperatures:
    return study(arg, TEMPERATURES, title='Temperatures of knowledge distillation, on CamVid',
                 description='*kd_T*: temperature T, weight 1.')
  return study(
      arg, STUDENTS, title='The parts of knowledge adaptation, on CamVid',
      description='*kd*: temperature 4, weight 1. *fitnets*: weight 10. *features*: feature '
      'adaptation, weight 50. *affinity*: of the features themselves, weight 1. *both*: feature '
      'and affinity adaptation of the code of the autoencoder, weights 50 and 1. *features_5*, '
      '*both_5*: weight 5 instead of 50.')


def study(arg, students, *, title, description, baseline='alone'):
  """Students of this teacher.

  Args:
    arg: `steps` of a student and of the teacher (`teacher_steps`), number of `seeds`, height of the
      images (`size`), a multiple of 3, and `runlocal`.
    students: as in `common.study`.
    title: likewise.
    description: likewise.
    baseline: likewise.
  """
  config = _recipe('role=student', arg.steps, arg.size)
  config.student.update(name='plain_mobilenetv2', output_stride=16, width=WIDTH)
  config.eval.update(split='test', every_steps=arg.steps)
  config.prepare.steps = 100
  teacher = _recipe('role=teacher,init=imagenet', arg.teacher_steps, arg.size)
  teacher.student.name = 'deeplabv3plus_mobilenetv2'
  common.study(config, title=title, description=description, students=students, tune=TUNE,
               baseline=baseline, seeds=range(arg.seeds), teacher=teacher)
  return common.runlocal(config) if arg.runlocal else config


def _recipe(arg, steps, height):
  config = camvid.get_config(arg)
  config.data.size = (height, height * 4 // 3)
  config.augmentation.crop = (height, height)
  config.train.steps = steps
  config.checkpoint.every_steps = 250
  return config


def hold_out(source, folder):
  """Makes a folder with train, val and test of links to one with train and val.

  The last fifth of each sequence of train, by the names of its images, becomes val: neighbours in a
  sequence look alike. What was val becomes test.

  Args:
    source: folder in the layout of CamVid.
    folder: to be made.
  """
  source, folder = pathlib.Path(source).resolve(), pathlib.Path(folder)
  for kind in ('', 'annot'):
    for split in ('train', 'val', 'test'):
      (folder / f'{split}{kind}').mkdir(parents=True)
    for file in (source / f'val{kind}').iterdir():
      (folder / f'test{kind}' / file.name).symlink_to(file)
    sequence = lambda file: file.name.partition('_')[0]
    for _, frames in itertools.groupby(sorted((source / f'train{kind}').iterdir()), sequence):
      frames = list(frames)
      first = len(frames) - len(frames) // 5
      for place, file in enumerate(frames):
        split = 'train' if place < first else 'val'
        (folder / f'{split}{kind}' / file.name).symlink_to(file)


if __name__ == '__main__':
  hold_out(*sys.argv[1:])

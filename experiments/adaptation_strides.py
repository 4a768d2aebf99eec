"""What does an output stride cost, and does knowledge adaptation make up for it? On CamVid.

Figure 1 of He et al., CVPR 2019, in kind: the student alone and adapted at output strides 4, 8, 16
and 32, mIoU against multiply-adds. In the paper the adapted one at 16 beats the one alone at 4.
Teacher, student, data and settings, and how learning rates are chosen: those of
experiments/adaptation_parts.py.
Commands:
  ./launch.sh study --config=experiments/adaptation_strides.py --workdir=runs/adaptation_strides
  .venv/bin/python -m experiments.adaptation_strides runs/adaptation_strides
The second draws the report into tradeoff.png of the work directory.
"""

import json
import os
import sys

from experiments import adaptation_parts
from kdseg_jax import tasks
from kdseg_jax.data import files
from kdseg_jax.recipes import common
from kdseg_jax.report import pictures

STRIDES = (4, 8, 16, 32)
METHODS = {'alone': 'none', 'adapted': 'adaptation'}


def get_config(arg=None):
  """Arguments: those of `adaptation_parts.ARGUMENTS`."""
  students = {f'{name}_{stride}': {'method': method, 'student': {'output_stride': stride}}
              for name, method in METHODS.items() for stride in STRIDES}
  return adaptation_parts.study(
      common.parse_arg(arg, **adaptation_parts.ARGUMENTS), students, baseline='alone_16',
      title='Output strides and knowledge adaptation, on CamVid',
      description='The number in the name of a student is its output stride.')


def lines_of(report):
  """What `pictures.tradeoff` draws of a report, for every method its students by output stride."""
  entry = lambda name, stride: report['students'][f'{name}_{stride}']
  return {name: [
      pictures.Point(f'stride {stride}', entry(name, stride)['inference']['macs'],
                     entry(name, stride)[report['metric']], entry(name, stride)['interval'])
      for stride in STRIDES] for name in METHODS}


def main(workdir):
  """Draws the report of a work directory."""
  with open(os.path.join(workdir, 'report.json')) as file:
    report = json.load(file)
  path = os.path.join(workdir, 'tradeoff.png')
  files.write_png(path, pictures.tradeoff(
      lines_of(report), tasks.find('segmentation').main_metric))
  print(path)


if __name__ == '__main__':
  main(sys.argv[1])

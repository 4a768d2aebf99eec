"""What helps in knowledge adaptation? Its parts, and what its paper compares it with, on CamVid.

Of He et al., CVPR 2019: the student alone; knowledge distillation at temperatures 2, 4 and 6;
FitNets; the feature adaptation alone; the affinity alone, of the features themselves, resized;
both. All at 180x240: MobileNetV2 of half the width without pyramid and decoder, at output stride
16, of a DeepLabV3+-MobileNetV2 teacher that starts from ImageNet weights. One autoencoder serves
all.
Data: as of configs/camvid.py, in $KDSEG_DATA.
Command:
  ./launch.sh study --config=experiments/adaptation_parts.py --workdir=runs/adaptation_parts
Where it differs from the paper: FitNets passes a learned 1x1 convolution, as the widths differ, and
has the weight of CIRKD's scripts; the student starts from noise.
"""

from kdseg_jax.recipes import camvid, common

WIDTH = 0.5
RESIZED = {'resize': True}
STUDENTS = {
    'alone': {},
    **{f'kd_{temperature}': {
        'method': 'kd', 'distill': {'kd': {'temperature': float(temperature), **RESIZED}}}
       for temperature in (2, 4, 6)},
    'fitnets': {'method': 'fitnets', 'distill': {'fitnets': RESIZED}},
    'features': {'method': 'feature_adaptation'},
    'affinity': {'method': 'affinity_adaptation',
                 'distill': {'affinity_adaptation': {'autoencoder': False}}},
    'both': {'method': 'adaptation'},
}


def get_config(arg=None):
  """Arguments: steps=<of a student>, seeds=<how many>, runlocal."""
  return study(
      arg, STUDENTS, baseline='alone', title='The parts of knowledge adaptation, on CamVid',
      description='Learning rate, steps and images are the same for all students, and nothing was '
      'tuned for any of them.')


def study(arg, students, *, baseline, title, description):
  """Students of this teacher; takes the arguments of `get_config`."""
  arg = common.parse_arg(arg, steps=2_000, seeds=3, runlocal=False)
  config = camvid.get_config('role=student')
  config.student.update(name='plain_mobilenetv2', output_stride=16, width=WIDTH)
  config.train.steps = arg.steps
  teacher = camvid.get_config('role=teacher,init=imagenet')
  teacher.student.name = 'deeplabv3plus_mobilenetv2'
  common.study(config, title=title, description=description, students=students,
               baseline=baseline, seeds=range(arg.seeds), teacher=teacher)
  return common.runlocal(config) if arg.runlocal else config

"""Quickstart: a small teacher, a student alone and the same student distilled, on the scenes.

Handwritten digits on photographs, generated as they are needed: nothing is downloaded. The usual
case of few labels and many images: the teacher was trained on all 10,000 scenes, the student alone
has 300 of them; distilled, it also sees the other 9,700, without their labels.
Command: ./launch.sh quickstart
Two of the three runs alone:
  ./launch.sh train --config=configs/quickstart.py:role=student --workdir=runs/student
  ./launch.sh train --config=configs/quickstart.py:method=pixelwise+pairwise,unlabelled \\
      --config.teacher.checkpoint=runs/quickstart/teacher --workdir=runs/distilled
"""

from kdseg_jax.recipes import common

LABELLED = 300  # scenes that the students learn from; the teacher has seen all 10,000

# Each tuned by the same rule, experiments/scenes_core.md.
LEARNING_RATES = {'alone': 64e-3, 'unlabelled': 32e-3}

# The other scenes of the training split, without their labels: half of every batch.
UNLABELLED = {'unlabelled': 'rest', 'unlabelled_share': 0.5}

# Fields of terms that differ from the papers'.
DISTILL = {
    'pairwise': {'node_size': 1},  # every pixel: the maps are 8x8
    'holistic': {'width': 0.25},  # a critic of the size of the student
    'adversarial': {'width': 0.25},
}


def get_config(arg=None):
  """Arguments: role=teacher|student, method=<methods>, unlabelled (images too), runlocal."""
  arg = common.parse_recipe_arg(arg, unlabelled=False)
  config = common.segmentation(arg.method, arg.role)
  config.augmentation.update(scale=(), flip=0.0)  # digits: no mirror images, no other sizes
  config.eval.update(split='test', every_steps=0, batch_size=20)
  config.checkpoint.update(every_steps=0, keep=1)
  config.log.every_steps = 100
  config.train.batch_size = 8
  config.optimizer.update(name='adamw', weight_decay=1e-4, warmup_steps=50)
  common.set_student(config, name='deeplabv3_resnet18', aux=False, project_dropout=0.0)
  if arg.role == 'teacher':
    config.student.width = 0.25
    config.optimizer.learning_rate = 8e-3
    config.train.steps = 5_000
  else:
    config.student.width = 0.125
    config.optimizer.learning_rate = LEARNING_RATES['unlabelled' if arg.unlabelled else 'alone']
    config.train.steps = 3_000
    config.data.train_limit = LABELLED
    if arg.unlabelled:
      config.data.update(UNLABELLED)
  for term, options in DISTILL.items():
    if term in config.distill:
      config.distill[term].update(options)
  return common.runlocal(config) if arg.runlocal else config

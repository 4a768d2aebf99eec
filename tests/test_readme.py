"""What the pages and docstrings tell a reader to type works: Python blocks, commands, links."""

import doctest
import importlib
import importlib.util
import pathlib
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import default_config, distillers, models, recipes
from tests import runs, toys, workdirs

PAGES = [runs.ROOT / 'README.md', runs.ROOT / 'CONTRIBUTING.md',
         *sorted((runs.ROOT / 'docs').glob('*.md'))]
RECIPES = sorted((runs.ROOT / 'kdseg_jax/recipes').glob('*.py'))


def reader():
  """What the pages leave to the reader: a student, a batch, what a teacher gave."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  taps = lambda: {'logits': normal(2, 8, 8, 3), 'embedding': normal(2, 8, 8, 4)}
  batch = {'image': normal(2, 8, 8, 3), 'label': jnp.asarray(rng.integers(0, 3, (2, 8, 8)))}
  return {
      'my_student': lambda params, image: (image @ params['head'], image @ params['features']),
      'params': {'head': normal(3, 3), 'features': normal(3, 4)}, 'batch': batch,
      'teacher_logits': normal(2, 8, 8, 3), 'teacher_features': normal(2, 8, 8, 6),
      'images': normal(2, 8, 8, 3), 'rng': jax.random.key(0),
      'inputs': distillers.DistillInputs(
          student=taps(), teacher=taps(), batch=batch, rng=jax.random.key(1))}


def blocks(page, language):
  return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.M | re.S)


def test_python_blocks_of_the_readme_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.Model(
      num_classes, axis_name))
  workdirs.save(tmp_path / 'runs/quickstart/distilled', workdirs.config_of())
  photo = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
  PIL.Image.fromarray(photo).save('photo.jpg')
  names = reader()
  code = blocks(runs.ROOT / 'README.md', 'python')
  assert code
  for block in code:
    exec(compile(block, 'README.md', 'exec'), names)
  value, gradient = jax.value_and_grad(names['loss_fn'])(
      *(names[name] for name in ('params', 'batch', 'teacher_logits', 'teacher_features')))
  assert np.isfinite(value) and all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
  assert np.isfinite(names['loss']) and names['loss'] > 0  # of the combined distillers
  assert names['prediction'].scores.shape == (12, 16, len(names['model'].classes))
  assert names['logits'] is names['taps']['logits']
  assert {'pixelwise/raw', 'pairwise/weighted'} <= set(names['metrics'])


def modules_with_examples():
  packages = pkgutil.walk_packages(kdseg_jax.__path__, 'kdseg_jax.')
  for name in ['kdseg_jax', *(info.name for info in packages)]:
    source = pathlib.Path(importlib.util.find_spec(name).origin)
    if '>>> ' in source.read_text():
      yield name


def test_examples_in_docstrings_give_what_they_say():
  names = list(modules_with_examples())
  assert names
  for name in names:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed, name


def text_of(path):
  text = path.read_text()
  return text.replace('\\\\\n', ' ').replace('\\\n', ' ')  # commands that go on in the next line


@pytest.mark.parametrize('page', PAGES + RECIPES, ids=lambda path: path.name)
def test_commands_name_programs_recipes_and_fields_that_exist(page):
  text = text_of(page)
  programs = re.findall(r'\./launch\.sh ([a-z.]+)', text)
  usage = (runs.ROOT / 'launch.sh').read_text()
  for program in programs:
    assert re.search(rf'^  {re.escape(program)} ', usage, re.M), program
  named = re.findall(r'--config=((?:configs|experiments)/\w+\.py)(?::([\w=,+:.@-]+))?', text)
  for file, arg in named:
    spec = importlib.util.spec_from_file_location('recipe', runs.ROOT / file)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    assert recipe.get_config(arg.rstrip('.,') or None)
  # Some fields are those of a model or task: ceil_mode of a ResNet, box_loss of FCOS.
  fields = leaves(default_config.segmentation('none')).union(*(
      leaves(recipes.load(name)(arg))
      for name, arg in (('cityscapes', 'settings=skd'), ('coco', 'head=fcos'),
                        ('coco', 'head=retinanet'))))
  for field in re.findall(r'--config\.([a-z_0-9.]+[a-z0-9])', text):
    # These depend on the method, and on a factory from elsewhere.
    if not (field.startswith('distill') or '.options.' in field):
      assert field in fields, f'{page.name}: --config.{field}'


def leaves(config, prefix=''):
  """The fields of a config by path, and its sections."""
  return {prefix + name for name in config} | {
      path for name, value in config.items() if isinstance(value, ConfigDict)
      for path in leaves(value, f'{prefix}{name}.')}


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)#:]+)\)', page.read_text()):
    assert (page.parent / target).exists(), target

"""The programs as a user starts them: every recipe, every command, every wrong input."""

import collections
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from kdseg_jax import data, evaluate, predict, train
from kdseg_jax.data import files, palettes, prepare
from tests import runs, shallow, toys, workdirs
from tests.data import archives

pytestmark = pytest.mark.usefixtures('one_device', 'shallow_models')

RECIPES = sorted(path.name for path in (runs.ROOT / 'configs').glob('*.py')
                 if path.name not in ('common.py', 'papers.py', '__init__.py'))
# Recipes whose data are read through a builder.
PREPARED = {'ade20k.py': 'ade20k', 'camvid_papers.py': 'camvid', 'cityscapes.py': 'cityscapes',
            'pascal_context.py': 'pascal_context', 'voc.py': 'voc'}


@pytest.fixture(scope='module')
def camvid(tmp_path_factory):
  """A tiny data set in the layout of CamVid."""
  root = tmp_path_factory.mktemp('camvid')
  rng = np.random.default_rng(0)
  for split, count in (('train', 8), ('val', 5), ('test', 3)):
    for i in range(count):
      files.write_png(root / split / f'{i}.png', rng.integers(0, 256, (36, 48, 3), np.uint8))
      files.write_png(root / f'{split}annot' / f'{i}.png', rng.integers(0, 12, (36, 48), np.uint8))
  return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A tiny data set in the layout of your own data, with more images without labels beside it."""
  root = tmp_path_factory.mktemp('folder')
  archives.folder(root, size=(36, 48))
  archives.folder(root / 'more', counts=[('train', 4)], size=(50, 40))
  return root


@pytest.fixture(scope='module')
def prepared_root(tmp_path_factory):
  """Tiny archives of every public data set, prepared by their builders."""
  root = tmp_path_factory.mktemp('prepared')
  for name in PREPARED.values():
    manual_dir = tmp_path_factory.mktemp(name)
    archives.PREPARED[name](manual_dir)
    prepare.prepare(name, manual_dir, root, allow_partial=True)
  return root


@pytest.fixture(scope='module')
def settings(camvid, folder, prepared_root):
  """Options of the recipes that need any."""
  return collections.defaultdict(list, {
      'camvid.py': [f'--config.data.root={camvid}', '--config.data.size=(36,48)'],
      'folder.py': [f'--config.data.root={folder}',
                    f'--config.data.unlabelled={folder}/more/images/train'],
  } | {recipe: [f'--config.data.root={prepared_root}'] for recipe in PREPARED})


@pytest.fixture
def run_here(capsys, monkeypatch):
  """Runs a program in this process, checks its exit status, and returns what it printed."""
  def run(program, *arguments, status=0):
    ended, output = runs.run_here(capsys, program.PROGRAM, *arguments)
    assert (ended or 0) == status, output
    return output
  monkeypatch.chdir(runs.ROOT)
  return run


@pytest.fixture(scope='module')
def teachers(settings, tmp_path_factory):
  """A tiny teacher for every recipe, trained when it is first asked for."""
  class Teachers(dict):

    def __missing__(self, recipe):
      self[recipe] = tmp_path_factory.mktemp('teacher')
      # CamVid's students learn at the stride of the fine-tuned teacher.
      role = 'role=teacher,finetune' if recipe == 'camvid.py' else 'role=teacher'
      with pytest.raises(SystemExit) as ended:
        train.PROGRAM.run(['train', f'--config={runs.ROOT}/configs/{recipe}:{role},runlocal',
                           f'--workdir={self[recipe]}', *settings[recipe]])
      assert not ended.value.code
      return self[recipe]
  return Teachers()


@pytest.mark.slow
# Recipes of classes and boxes have their own: tests/test_classification.py, tests/configs/.
@pytest.mark.parametrize('recipe', [
    name for name in RECIPES if name not in (
        'bccd.py', 'cifar.py', 'coco.py', 'imagenet.py', 'scenes_detection.py')])
def test_every_recipe_distils_two_steps_and_evaluates(
    recipe, run_here, settings, teachers, tmp_path):
  run_here(train, f'--config=configs/{recipe}:method=pixelwise+pairwise,runlocal',
           f'--workdir={tmp_path}', f'--config.teacher.checkpoint={teachers[recipe]}',
           *settings[recipe])
  rows = runs.rows(tmp_path)
  assert [(r['phase'], r['step']) for r in rows] == [('train', 1), ('train', 2), ('evaluation', 2)]
  assert {'learning_rate', 'loss', 'task/cross_entropy', 'distill/pixelwise/raw',
          'distill/pixelwise/weighted', 'distill/pairwise/raw'} <= rows[1].keys()
  assert rows[1]['images_per_second'] > 0 and rows[1]['step_seconds'] > 0
  assert 0 <= rows[2]['teacher_mean_iou'] <= 1
  assert list((tmp_path / 'tensorboard').glob('events*'))
  result = tmp_path / 'result.json'
  run_here(evaluate, f'--workdir={tmp_path}', f'--json={result}')
  metrics = json.loads(result.read_text())
  assert set(metrics) == {'mean_iou', 'per_class_iou', 'pixel_accuracy', 'images'}
  assert metrics['mean_iou'] == rows[2]['mean_iou'] and metrics['images'] == rows[2]['images']


@pytest.mark.slow
def test_a_segmenter_is_distilled_by_knowledge_review(cache, settings, teachers, tmp_path):
  output = runs.run(
      'train', '--config=configs/camvid.py:method=review,runlocal', f'--workdir={tmp_path}',
      f'--config.teacher.checkpoint={teachers["camvid.py"]}', *settings['camvid.py'], cache=cache,
      prelude=shallow.PRELUDE)
  assert 'Python 3.' in output and 'device(s)' in output
  rows = runs.rows(tmp_path)
  assert [(row['phase'], row['step']) for row in rows] == [
      ('train', 1), ('train', 2), ('evaluation', 2)]
  assert rows[1]['distill/review/raw'] > 0 and 0 <= rows[2]['mean_iou'] <= 1
  assert any('distiller/params/review/stage0/attention' in name for name in runs.saved(tmp_path))


@pytest.mark.slow
def test_evaluate_takes_split_data_root_and_overrides(cache, camvid, teachers, tmp_path):
  result = tmp_path / 'result.json'
  output = runs.run(
      'evaluate', f'--workdir={teachers["camvid.py"]}', '--split=test', f'--data_root={camvid}',
      f'--json={result}', '--config.task.absent_as_zero=True', '--config.eval.batch_size=2',
      '--config.eval.window=(24,48)', '--config.eval.flip=True',
      f'--confusion={tmp_path / "new" / "confusion.png"}', cache=cache, prelude=shallow.PRELUDE)
  assert json.loads(result.read_text())['images'] == 3
  assert 'windows of 24x48 overlapping by 0.33, flip' in output
  assert files.read_image(tmp_path / 'new' / 'confusion.png').std() > 10
  assert 'classes that occur nowhere count as 0' in output and '| bicyclist' in output


@pytest.mark.slow
def test_evaluate_and_predict_compare_class_names(run_here, teachers, tmp_path):
  archives.folder(tmp_path / 'data', size=(36, 48), num_classes=11)
  arguments = [f'--workdir={teachers["camvid.py"]}', '--split=test', '--config.data.name=folder',
               f'--config.data.root={tmp_path / "data"}', '--config.eval.window=()']
  for program in (evaluate, predict):
    output = run_here(program, *arguments, status=2)
    assert 'have different classes, other names' in output
    assert '0 name 0' in output and '0 sky' in output
    run_here(program, *arguments, '--allow_class_names')


@pytest.mark.slow
def test_predict_writes_palette_pngs_of_the_size_of_the_images_and_overlays_with_a_legend(
    cache, teachers, tmp_path):
  rng = np.random.default_rng(0)
  folder = tmp_path / 'photos'
  files.write_png(folder / 'a.png', rng.integers(0, 256, (40, 56, 3), np.uint8))
  files.write_png(folder / 'b.png', rng.integers(0, 256, (33, 47, 3), np.uint8))
  (folder / 'c.png').write_bytes(b'cut short')
  output = tmp_path / 'out'
  text = runs.run('predict', f'--workdir={teachers["quickstart.py"]}', f'--output={output}', folder,
                  folder / 'a.png', cache=cache, prelude=shallow.PRELUDE, status=1)
  assert '3 images.' in text and '1 were left out:' in text
  assert 'c.png: cannot be decoded' in text and 'Traceback' not in text
  assert sorted(path.name for path in (output / 'labels').iterdir()) == [
      'a.png', 'a_2.png', 'b.png']
  labels = files.read_label(output / 'labels' / 'b.png')
  assert labels.shape == (33, 47) and labels.max() <= 10
  overlay = files.read_image(output / 'overlays' / 'b.png')  # with a legend below
  palette = palettes.SCENES
  np.testing.assert_array_equal(overlay[:33, :47], palettes.overlay(
      files.read_image(folder / 'b.png'), labels, palette))
  assert all((overlay[33:] == color).all(axis=-1).any() for color in palette)
  np.testing.assert_array_equal(files.read_label(output / 'labels' / 'a.png'),
                                files.read_label(output / 'labels' / 'a_2.png'))


@pytest.mark.slow
def test_predict_compares_work_directories_on_a_split(run_here, teachers, tmp_path):
  workdir = teachers['quickstart.py']
  arguments = [f'--workdir={workdir}', '--split=val', f'--output={tmp_path}', '--nolegend',
               '--config.eval.limit=2', '--config.eval.scales=(1.0,1.5)']
  run_here(predict, *arguments, f'--compare=big={shutil.copytree(workdir, tmp_path / "copy")}')
  source = data.create('scenes', 'val')
  for name in ('val_00000', 'val_00001'):
    assert files.read_label(tmp_path / 'labels' / f'{name}.png').shape == (64, 64)
    overlay = files.read_image(tmp_path / 'overlays' / f'{name}.png')
    assert overlay.shape == (64, 64, 3)
    strip = files.read_image(tmp_path / 'strips' / f'{name}.png')
    # Image, label and two models of equal weights, each enlarged to 256 pixels and margins.
    panels = [strip[28:28 + 256, 264 * i + 4:264 * i + 260] for i in range(4)]
    example = source[int(name[-1])]
    np.testing.assert_array_equal(panels[0][2::4, 2::4], example['image'])
    np.testing.assert_array_equal(panels[1][2::4, 2::4], palettes.overlay(
        example['image'], example['label'], palettes.SCENES))
    np.testing.assert_array_equal(panels[2][2::4, 2::4], overlay)
    np.testing.assert_array_equal(panels[2], panels[3])
    assert strip.shape[1] == 4 * 264 and strip.shape[0] > 28 + 256 + 8  # a legend below
  output = run_here(predict, *arguments, 'photo.png', status=2)
  assert 'ERROR: --split=val and files were given; choose one of them.' in output


@pytest.mark.slow
def test_quickstart_trains_three_models_and_writes_figures_and_overlays(cache, tmp_path):
  output = runs.run('quickstart', '--runlocal', f'--workdir={tmp_path}', cache=cache,
                    prelude=shallow.PRELUDE + runs.SHORT_TIMING)
  result = json.loads((tmp_path / 'quickstart.json').read_text())
  assert set(result) == {'teacher', 'student', 'distilled', 'seconds'}
  for name in ('teacher', 'student', 'distilled'):
    assert set(result[name]) == {'mean_iou', 'params', 'macs', 'images_per_second'}
    assert 0 <= result[name]['mean_iou'] <= 1 and result[name]['images_per_second'] > 0
  assert result['student']['params'] == result['distilled']['params']
  assert len(list((tmp_path / 'overlays').glob('*.png'))) == 8
  assert '| distilled' in output and str(tmp_path / 'quickstart.json') in output
  start = [runs.saved(tmp_path / name) for name in ('student', 'distilled')]
  np.testing.assert_array_equal(start[0]['training/rng'], start[1]['training/rng'])


@pytest.mark.parametrize('arguments,message', [
    (['--config=configs/quickstart.py'], '--workdir is missing'),
    (['--workdir=WORK'], '--config is missing'),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.optimizer.learning_rat=1'],
     'The nearest is --config.optimizer.learning_rate.'),
    (['--config=configs/quickstart.py:mehtod=pixelwise', '--workdir=WORK'],
     "Did you mean 'method'?"),
    (['--config=configs/quickstart.py:method=pixelwize', '--workdir=WORK'],
     "Did you mean 'pixelwise'"),
    (['--config=configs/quickstart.py:method=pixelwise', '--workdir=WORK'],
     'config.teacher.checkpoint is empty'),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.method=pixelwise'],
     'the method is an argument of the recipe'),
    (['--config=configs/quickstart.py:method=kd', '--workdir=WORK',
      '--config.distill.kdd.weight=2'],
     "config.distill has no term 'kdd', but kd. Did you mean 'kd'"),
    (['--config=configs/quickstart.py:method=kd:2', '--workdir=WORK'],
     'a weight is written with @, kd@2'),
    (['--workdir=WORK', '--config.seed=1'],
     '--config.seed=1: there is no config whose field this is'),
    (['--wrkdir=WORK'], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    (['--config=configs/quickstart.py:method=pixelwise', '--workdir=WORK',
      '--config.teacher.checkpoint=WORK/nowhere'], 'has no checkpoint'),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--require_accelerator'],
     'jax found only the CPU'),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.student.name=resnet'],
     "Unknown model: 'resnet'"),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.eval.split=tset'],
     "Did you mean 'test'?"),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.eval.overlap=1.0'],
     'config.eval.overlap=1.0: expected a share'),
    (['--config=configs/camvid.py', '--workdir=WORK', '--config.data.root=WORK'],
     'no CamVid there'),
    (['--config=configs/folder.py', '--workdir=WORK', '--config.data.root=WORK'],
     'images: no such folder; the layout is images/<split>/ labels/<split>/'),
    (['--config=configs/folder.py', '--workdir=WORK', '--config.data.name=ade20k',
      '--config.data.root=WORK'], 'holds no prepared ade20k. Prepare it once: python -m kdseg_jax'),
    (['--config=configs/quickstart.py', '--workdir=WORK', 'stray'], "Unexpected argument 'stray'"),
    (['--config=configs/nowhere.py', '--workdir=WORK'], 'configs/nowhere.py: no such file'),
    (['--config=BROKEN', '--workdir=WORK'], 'broken.py:2: '),
    (['--config=configs/quickstart.py', '--workdir=WORK', '--config.data.size=32'],
     'config.data.size=32: expected a height and a width'),
    (['--config=configs/quickstart.py', '--workdir=BROKEN/run'], 'broken.py is no folder'),
])
def test_wrong_input_of_train_is_one_clear_error_and_leaves_nothing(
    arguments, message, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  work = tmp_path / 'work'
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config(arg=None):\n  return (\n')
  arguments = [argument.replace('WORK', str(work)).replace('BROKEN', str(broken))
               for argument in arguments]
  status, output = runs.run_here(capsys, train.PROGRAM, *arguments)
  assert status == 2 and message in output.partition('ERROR: ')[2]
  assert not work.exists()


def test_evaluate_and_predict_want_a_trained_work_directory(cache, tmp_path):
  for program in ('evaluate', 'predict'):
    output = runs.run(program, f'--workdir={tmp_path / "nowhere"}', '--config.eval.flip=True',
                      cache=cache, status=2)
    assert 'must be the work directory of a run of `train`' in output


@pytest.mark.parametrize('program, options', [
    (evaluate, ['--split=val']), (predict, ['--split=val']),
    (predict, ['--compare=same', '--split=val']),
    (predict, ['--compare=other', 'data/images/val'])])
def test_other_class_names_are_refused_before_anything_is_predicted(
    program, options, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  toys.replace_models(monkeypatch)
  archives.folder(tmp_path / 'data', counts=[('val', 1)])
  config = workdirs.config_of(**{'data.name': 'folder', 'data.root': 'data'})
  for name, classes in (('work', workdirs.CLASSES), ('same', workdirs.CLASSES),
                        ('other', ('a', 'b', 'c'))):
    workdirs.save(tmp_path / name, config, classes=classes)
  status, text = runs.run_here(capsys, program.PROGRAM, '--workdir=work', *options)
  assert status == 2 and 'have different classes, other names' in text and '0 sky' in text
  assert not (tmp_path / 'work/predictions').exists()


@pytest.mark.parametrize('output, message', [
    ('set', 'holds images and labels, as a data set'), ('.', 'labels/a.png could be replaced')])
def test_predict_replaces_no_labels_of_the_user(output, message, capsys, monkeypatch, tmp_path):
  workdirs.save(tmp_path / 'work', workdirs.config_of())
  monkeypatch.chdir(tmp_path)
  for folder in ('set/images', 'set/labels', 'labels'):
    pathlib.Path(folder).mkdir(parents=True)
    PIL.Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(f'{folder}/a.png')
  before = pathlib.Path('set/labels/a.png').read_bytes()
  status, text = runs.run_here(capsys, predict.PROGRAM, '--workdir=work', f'--output={output}',
                               'set/images' if output == 'set' else 'labels')
  assert status == 2 and message in text and 'Give another folder.' in text
  assert pathlib.Path('set/labels/a.png').read_bytes() == before
  assert not pathlib.Path('overlays').exists()


def test_every_recipe_says_its_command():
  for recipe in RECIPES:
    text = (pathlib.Path(runs.ROOT) / 'configs' / recipe).read_text()
    assert './launch.sh' in text.split('"""')[1], recipe

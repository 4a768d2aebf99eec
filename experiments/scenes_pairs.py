"""Does distillation help on the built-in scenes? Paired seeds, at equal steps and at twice as many.

Command: .venv/bin/python experiments/scenes_pairs.py --workdir=runs/scenes_pairs
Result: experiments/scenes_pairs.md, with everything else as in configs/quickstart.py.

One teacher. For each number of steps the learning rate of the student alone is the best of three on
the val split, with a seed that is not used again; the distilled student takes the same one. Then
both are trained from the same initialisation on the same batches, once a seed, and evaluated on the
test split after the last step. A run that is finished is not repeated.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import scipy.stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHOD = 'pixelwise+pairwise'
LEARNING_RATES = (4e-3, 8e-3, 16e-3)
TUNING_SEED = 1000


def train(workdir, role, *settings):
  """Trains a run unless it is finished; returns the mIoU after its last step."""
  command = [sys.executable, '-m', 'kdseg_jax.train', f'--config=configs/quickstart.py:{role}',
             f'--workdir={workdir}', *settings]
  if not (workdir / 'finished').exists():
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / 'log.txt', 'a') as log:
      subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=log)
    (workdir / 'finished').touch()
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [row['mean_iou'] for row in rows if row['phase'] == 'evaluation'][-1]


def compare(pool, workdir, steps, seeds):
  """mIoU of both students for every seed, and the learning rate that was chosen."""
  settings = lambda rate, seed: (
      f'--config.train.steps={steps}', f'--config.optimizer.learning_rate={rate}',
      f'--config.seed={seed}')
  tuned = list(pool.map(
      lambda rate: train(workdir / f'{steps}_tune_{rate}', 'role=student',
                         *settings(rate, TUNING_SEED), '--config.eval.split=val'),
      LEARNING_RATES))
  rate = LEARNING_RATES[int(np.argmax(tuned))]
  alone = pool.map(lambda seed: train(
      workdir / f'{steps}_alone_{seed}', 'role=student', *settings(rate, seed)), range(seeds))
  distilled = pool.map(lambda seed: train(
      workdir / f'{steps}_distilled_{seed}', f'role=student,method={METHOD}',
      *settings(rate, seed), f'--config.teacher.checkpoint={workdir / "teacher"}'), range(seeds))
  return {'steps': steps, 'tuning': dict(zip(map(str, LEARNING_RATES), tuned)),
          'learning_rate': rate, 'alone': list(alone), 'distilled': list(distilled)}


def summarize(result):
  """Adds the paired difference, its 95% interval and the p-value of the paired t-test."""
  difference = np.subtract(result['distilled'], result['alone'])
  half = scipy.stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / math.sqrt(
      len(difference))
  return result | {
      'difference': float(difference.mean()),
      'interval': [float(difference.mean() - half), float(difference.mean() + half)],
      'p_value': float(scipy.stats.ttest_rel(result['distilled'], result['alone']).pvalue)}


def report(teacher, results):
  """The table, in Markdown."""
  percent = lambda x: f'{100 * x:.1f}'
  seeds = len(results[0]['alone'])
  lines = [
      '# Distillation on the built-in scenes: paired seeds', '',
      'Command: `.venv/bin/python experiments/scenes_pairs.py --workdir=runs/scenes_pairs`', '',
      'DeepLabV3-ResNet-18, width 0.25 (teacher) and 0.125 (student), 64x64, 500 test images, mIoU '
      'in % over the classes that occur, after the last step. Student and distilled student start '
      'from the same weights and see the same batches; the learning rate is the best of '
      f'{", ".join(map(str, LEARNING_RATES))} for the student alone, on the val split, with a seed '
      f'of its own. Distilled: `method={METHOD}`, weights 10 and 10, every pixel a node.', '',
      f'Teacher: {percent(teacher)}.', '',
      '| steps | learning rate | student alone | distilled | difference | 95% interval | p |',
      '|---|---|---|---|---|---|---|']
  for r in results:
    lines.append(
        f'| {r["steps"]} | {r["learning_rate"]} | {percent(np.mean(r["alone"]))} | '
        f'{percent(np.mean(r["distilled"]))} | {percent(r["difference"])} | '
        f'{percent(r["interval"][0])} to {percent(r["interval"][1])} | {r["p_value"]:.2g} |')
  lines += ['', f'Each seed (mIoU, %), 0 to {seeds - 1}:', '']
  for r in results:
    for name in ('alone', 'distilled'):
      lines.append(f'- {r["steps"]} steps, {name}: {", ".join(map(percent, r[name]))}')
    rates = ', '.join(f'{rate}: {percent(value)}' for rate, value in r['tuning'].items())
    lines.append(f'- {r["steps"]} steps, learning rates of the student alone on val: {rates}')
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--workdir', type=pathlib.Path, default=pathlib.Path('runs/scenes_pairs'))
  parser.add_argument('--steps', type=int, default=1500)
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--processes', type=int, default=max(1, os.cpu_count() or 1))
  options = parser.parse_args()
  workdir = options.workdir.resolve()
  teacher = train(workdir / 'teacher', 'role=teacher')
  with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
    results = [summarize(compare(pool, workdir, steps, options.seeds))
               for steps in (options.steps, 2 * options.steps)]
  text = report(teacher, results)
  (workdir / 'scenes_pairs.md').write_text(text)
  (workdir / 'scenes_pairs.json').write_text(
      json.dumps({'teacher': teacher, 'results': results}, indent=2))
  print(text)


if __name__ == '__main__':
  main()

"""What a work directory tells of its run: whether it is at its end, and with which config."""

from __future__ import annotations

import json
import os

from ml_collections import ConfigDict

from kdseg_jax import config_files
from kdseg_jax.checkpoint import saved_steps
from kdseg_jax.data.json_files import read_rows
from kdseg_jax.errors import UserError


def is_finished(run: ConfigDict, workdir: str) -> bool:
  """Whether a run has its last checkpoint and the evaluation after it."""
  steps = run.train.steps
  evaluated = any(row['phase'] == 'evaluation' and row['step'] == steps
                  for row in read_rows(workdir))
  return evaluated and max(saved_steps(workdir), default=0) >= steps


def changes_of(run: ConfigDict, folder: str) -> list[str]:
  """How a config differs, in what matters to the result, from that of the run in a folder."""
  if not saved_steps(folder):  # nothing was trained with it
    return []
  before, now = (json.loads(config.to_json()) for config in (config_files.read(folder), run))
  for config in (before, now):
    for section in ('log', 'checkpoint', 'memory_limit_gb'):
      del config[section]
    del config['eval']['pictures']
    del config['prepare']['folder']
    config['teacher'] = os.path.realpath(config['teacher']['checkpoint'])
  return config_files.changes(before, now)


def require_same_config(own: ConfigDict, folder: str) -> None:
  """Raises UserError if the teacher in a folder was trained with another config than its own."""
  changes = changes_of(own, folder)
  if changes:
    raise UserError(f'{folder} was trained with another config:\n  ' + '\n  '.join(changes)
                    + '\nUse another --workdir: its students learned from that teacher.')

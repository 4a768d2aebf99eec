"""Benchmarks: one command prints how fast this package is beside eager PyTorch on this machine.

  .venv/bin/python -m experiments.benchmarks --output=<folder>

prints, and writes as `table.md` and `table.json`, every row of `rows.ROWS`: the median of repeats
with quartiles, the ratio to the faster of PyTorch's memory layouts, peak memory, and the machine
(CPU flags and cores), versions and options that they were measured with. Run it on a machine that
does nothing else. In parts: `--only='loss/*'` (repeatable), whose results join those that the
folder holds already; `--list` names the rows. `--repeats=3` tries it. `--device=gpu` has rows of
its own, among them steps at 512x1024 in float32 and bfloat16.

PyTorch is no dependency. Its sides are left out where it is missing; they may live in another
environment, and on another Python, than jax:

  python3.11 -m venv torchenv && torchenv/bin/pip install torch==2.13.0
  .venv/bin/python -m experiments.benchmarks --torch=torchenv/bin/python --output=<folder>

Each side of a row is a process of its own that has imported only its own framework. The command
runs one call of each in turn, after one that does not count, as in a loop: so a machine that gets
slower does so for all of them, and a process that waits costs nothing. Losses of both sides read
the same numbers; their values are compared.

  rows.py       the rows: what is measured, against what, and the aims
  worker.py     one side of a row, in its own process; interleave.py  takes them in turns
  machine.py    machine and versions;  table.py  the Markdown and JSON
  inputs.py     the numbers that both sides read, in numpy
  *_device.py   a GPU, as each framework sees it
  our_*.py      our sides;  torch_*.py  PyTorch's, the only files that import it
  host.py       sides without a device: input pipeline, evaluation, prediction, cold starts
  growth.py     how time and memory of each loss grow with pixels and queue, as a command of its own
  results/      what was measured, and why not more
  convolutions.py, side_by_side.py, loss_memory.py  what the lowerings of a convolution gain, and a
                study, and the peak of memory of two losses under stated limits
"""

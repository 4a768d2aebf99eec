"""What the recipes of the papers share: pairs of models, and the settings of SKD and CIRKD.

All of it is in kdseg_jax/recipes/papers.py.
"""

from kdseg_jax.recipes.papers import *  # noqa: F403

"""What the recipes share: the argument after the colon, studies, and how to shrink all of it.

All of it is in kdseg_jax/recipes/common.py.
"""

from kdseg_jax.recipes.common import *  # noqa: F403

"""Parts of a run as a user writes them: nothing of kdseg_jax knows these."""

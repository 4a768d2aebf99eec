"""What compilers leave out for tests, whose programs run a few times; see `conftest`."""

import importlib.metadata

# XLA's own passes, fusion among them, are the same. About half of what compiling a step takes
# without LLVM's optimisations is spent on its newer emitters of loops. Versions without the older
# ones stop at the flag.
_JAXLIB = tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2]))
XLA_FLAGS = '--xla_cpu_use_fusion_emitters=false' if _JAXLIB < (0, 11) else ''
# LLVM's optimisations are half of a compilation, for code that is slower.
ENVIRONMENT = {'XLA_FLAGS': XLA_FLAGS, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}

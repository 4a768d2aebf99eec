"""What compilers leave out for tests, whose programs run a few times; see `conftest`."""

import importlib.metadata

# XLA's own passes, fusion among them, are the same. About half of what compiling a step takes
# without LLVM's optimisations is spent on its newer emitters of loops. Versions without the older
# ones stop at the flag.
_JAXLIB = tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2]))
# A program is one LLVM module, not 32: a quarter less to compile, where both cores have tests.
XLA_FLAGS = '--xla_cpu_parallel_codegen_split_count=1'
if _JAXLIB < (0, 11):
  XLA_FLAGS += ' --xla_cpu_use_fusion_emitters=false'
# LLVM's optimisations are half of a compilation, for code that is slower.
ENVIRONMENT = {'XLA_FLAGS': XLA_FLAGS, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}

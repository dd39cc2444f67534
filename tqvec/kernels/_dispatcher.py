"""Dispatchers of kernels that spend no time on code which nobody calls.

Numba compiles each function in full, and once more inside each of its callers. In full means machine code, a way in
for Python and one for C. Most kernels are only parts of others. So a function is compiled in two forms here, each when
it is first needed: for Python, and as code to be linked into callers, which optimise all of it together. The second
costs no more than its translation to LLVM's language. It is not kept on disk: compiled callers do without it.
"""

from __future__ import annotations

from numba.core import sigutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import _FunctionCompiler
from numba.core.registry import CPUDispatcher


class KernelDispatcher(CPUDispatcher):
    """A function as Python calls it, which hands its callers among kernels to a `PartDispatcher`."""

    def __init__(self, py_func, locals=None, targetoptions=None, pipeline_class=Compiler) -> None:
        super().__init__(py_func, locals, targetoptions, pipeline_class)
        self._part = _PartDispatcher(py_func, locals, targetoptions, pipeline_class)

    def get_call_template(self, args, kws):
        return self._part.get_call_template(args, kws)

    def get_overload(self, sig):
        return self._part.get_overload(sig)


class _PartDispatcher(CPUDispatcher):
    """A function as other kernels call it."""

    def __init__(self, py_func, locals=None, targetoptions=None, pipeline_class=Compiler) -> None:
        super().__init__(py_func, locals, targetoptions, pipeline_class)
        self._compiler = _PartCompiler(py_func, self.targetdescr, self.targetoptions, self.locals, pipeline_class)

    def compile(self, sig):
        """Compile without the timers of Numba's method: each would count every event of all parts inside."""
        with global_compiler_lock, self._compiling_counter:
            args, return_type = sigutils.normalize_signature(sig)
            if tuple(args) not in self.overloads:
                self.add_overload(self._compiler.compile(args, return_type))
            return self.overloads[tuple(args)].entry_point

    def add_overload(self, cres) -> None:
        key = object()  # names the code for callers; Numba takes the function that Python would call
        self.targetctx.insert_user_function(key, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres._replace(entry_point=key)


class _PartCompiler(_FunctionCompiler):
    def _compile_core(self, args, return_type):
        flags = Flags()
        self.targetdescr.options.parse_as_flags(flags, self.targetoptions)
        flags.no_compile = flags.no_cpython_wrapper = True
        typing, target = self.targetdescr.typing_context, self.targetdescr.target_context
        library = _PartLibrary(target.codegen(), self.py_func.__qualname__)
        return compile_extra(
            typing, target, self.py_func, args, return_type, flags, self.locals, library, self.pipeline_class
        )


class _PartLibrary(JITCodeLibrary):
    """Code that is only linked into other code."""

    def _optimize_final_module(self) -> None:
        """Nothing: callers optimise it with their own code."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

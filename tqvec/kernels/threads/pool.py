"""Work that threads share without Python: units of a compiled function, which an atomic counter hands out.

A caller publishes a *job* in a free slot of the pool, and takes units of it until none is left. Helpers, threads that
wait in `serve`, take units too. The caller returns when no helper computes a unit of its job any more. So no job
depends on helpers: it is done where there are none, or where all of them work for others.

The protocol (README.md) has one rule behind it: a thread first says what it does, then looks at what the others said.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from tqvec.kernels._jit import jit
from tqvec.kernels.simd.atomic import atomic_add, atomic_load, atomic_replace, atomic_store, pause
from tqvec.kernels.simd.vector import load_from, operation

LINE = 64  # bytes of a cache line
_WORD = 8

# The pool, in lines of its own for what different threads write: addresses are in bytes.
EPOCH = 0  # number of jobs published so far
SLEEPERS = LINE  # helpers that sleep
MUTEX = 2 * LINE  # of both conditions
WORK = 4 * LINE  # condition: a job was published
DONE = 6 * LINE  # condition: the last helper left a job whose caller sleeps
FUNCTIONS = 8 * LINE  # addresses of lock, unlock, wait, wake one, wake all
SLOTS = 9 * LINE

N_SLOTS = 32  # jobs at once; a further caller works alone
SLOT_BYTES = 3 * LINE
POOL_BYTES = SLOTS + N_SLOTS * SLOT_BYTES

# A slot. Its state and its counts are in lines of their own.
STATE, FUNCTION, PLAN, CALL, UNITS, MOST, TICKETS = (_WORD * i for i in range(7))
NEXT = LINE  # unit that is taken next
FAILED = LINE + _WORD  # whether a unit failed
ACTIVE = 2 * LINE  # helpers that have, or look at, this job
WAITING = 2 * LINE + _WORD  # whether the caller sleeps

FREE, CLOSED, OPEN = 0, 1, 2

HELPER_SPINS = 5000  # pauses, some 100 to 250 microseconds, that a helper looks for a new job before it sleeps
CALLER_SPINS = 1000

_I64 = ir.IntType(64)
_UNIT_ARGUMENTS = (types.intp, types.intp, types.intp, types.intp)  # plan, call, worker, unit
_FOREVER = 0xFFFFFFFF  # a third argument of Windows' wait


@intrinsic
def address_of(typing_context, values):
    """Return the address of a copy of a tuple, which lasts until the calling function returns.

    Arrays in it are not kept alive: the caller has to mention them later.
    """

    def lower(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), _I64)

    return types.intp(values), lower


def _borrow(context, builder, kind, value):
    """Return a value whose arrays have no owner, so that nobody counts references to them.

    Else each slice of an array would change a count that all threads share. On many cores that takes longer than the
    work on it.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind):
            borrowed = _borrow(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, borrowed, i)
    return value


@intrinsic
def unit_function(typing_context, body, plan, call):
    """Return the address of a function that calls ``body(plan, call, worker, unit)``, given addresses of the tuples."""
    inner = body.get_call_type(typing_context, (plan, call, types.intp, types.intp), {})

    def lower(context, builder, signature, args):
        kind = context.call_conv.get_function_type(types.int64, _UNIT_ARGUMENTS)
        function = ir.Function(builder.module, kind, name=builder.module.get_unique_name("tqvec_unit"))
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        *addresses, worker, unit = context.call_conv.get_arguments(function)
        tuples = [
            _borrow(context, inside, kind, load_from(inside, at, value.type))
            for at, kind, value in zip(addresses, signature.args[1:], args[1:], strict=True)
        ]
        context.get_function(body, inner)(inside, (*tuples, worker, unit))
        context.call_conv.return_value(inside, _I64(0))
        return builder.ptrtoint(function, _I64)

    return types.intp(body, plan, call), lower


@intrinsic
def _call_unit(typing_context, function, plan, call, worker, unit):
    """Call what `unit_function` returned; return 0, or another number if it raised an exception."""

    def lower(context, builder, signature, args):
        kind = context.call_conv.get_function_type(types.int64, _UNIT_ARGUMENTS)
        result, error = (cgutils.alloca_once(builder, argument.pointee) for argument in kind.args[:2])
        pointer = builder.inttoptr(args[0], kind.as_pointer())
        return builder.zext(builder.call(pointer, [result, error, *args[1:]]), _I64)

    return types.int64(types.intp, *_UNIT_ARGUMENTS), lower


@operation(types.void, (types.intp, types.intp, types.intp))
def _call_system(builder, function, first, second):
    """Call a function of the system, with the arguments that the wait of Windows has behind its own."""
    kind = ir.FunctionType(ir.IntType(32), [_I64, _I64, ir.IntType(32), ir.IntType(32)])
    forever, nothing = ir.IntType(32)(_FOREVER), ir.IntType(32)(0)
    builder.call(builder.inttoptr(function, kind.as_pointer()), [first, second, forever, nothing])


@jit
def _lock(pool):
    _call_system(atomic_load(pool + FUNCTIONS), pool + MUTEX, 0)


@jit
def _unlock(pool):
    _call_system(atomic_load(pool + FUNCTIONS + 8), pool + MUTEX, 0)


@jit
def _sleep(pool, condition):
    _call_system(atomic_load(pool + FUNCTIONS + 16), pool + condition, pool + MUTEX)


@jit
def _wake(pool, condition, count):
    """Wake as many of the threads that sleep; all of them if `count` is 0."""
    for _ in range(count):
        _call_system(atomic_load(pool + FUNCTIONS + 24), pool + condition, 0)
    if count == 0:
        _call_system(atomic_load(pool + FUNCTIONS + 32), pool + condition, 0)


@jit
def _take_units(slot, worker):
    """Compute units until none is left."""
    function = atomic_load(slot + FUNCTION)
    plan = atomic_load(slot + PLAN)
    call = atomic_load(slot + CALL)
    units = atomic_load(slot + UNITS)
    while True:
        unit = atomic_add(slot + NEXT, 1)
        if unit >= units:
            return
        if _call_unit(function, plan, call, worker, unit) != 0:
            atomic_store(slot + FAILED, 1)


@jit
def _help(pool, slot):
    """Take part in the job of a slot, if it still wants helpers; return whether it did."""
    atomic_add(slot + ACTIVE, 1)  # from now on the caller waits for this thread
    helped = False
    if atomic_load(slot + STATE) == OPEN:
        ticket = atomic_add(slot + TICKETS, 1)
        if ticket < atomic_load(slot + MOST):
            _take_units(slot, ticket + 1)
            helped = True
    if atomic_add(slot + ACTIVE, -1) == 1 and atomic_load(slot + WAITING) != 0:
        _lock(pool)
        _wake(pool, DONE, 0)
        _unlock(pool)
    return helped


@jit
def _wants_helpers(slot):
    wanted = atomic_load(slot + STATE) == OPEN and atomic_load(slot + TICKETS) < atomic_load(slot + MOST)
    return wanted and atomic_load(slot + NEXT) < atomic_load(slot + UNITS)


@jit
def serve(pool):
    """Help with jobs, for ever."""
    while True:
        epoch = atomic_load(pool + EPOCH)
        helped = False
        for s in range(N_SLOTS):
            slot = pool + SLOTS + s * SLOT_BYTES
            if _wants_helpers(slot):
                helped |= _help(pool, slot)
        if helped:
            continue
        for _ in range(HELPER_SPINS):
            if atomic_load(pool + EPOCH) != epoch:
                break
            pause()
        if atomic_load(pool + EPOCH) == epoch:
            _lock(pool)
            atomic_add(pool + SLEEPERS, 1)
            while atomic_load(pool + EPOCH) == epoch:
                _sleep(pool, WORK)
            atomic_add(pool + SLEEPERS, -1)
            _unlock(pool)


@jit
def _publish(pool, slot, helpers):
    """Open the job of a slot."""
    atomic_store(slot + STATE, OPEN)
    atomic_add(pool + EPOCH, 1)
    sleepers = atomic_load(pool + SLEEPERS)
    if sleepers > 0:
        _lock(pool)
        _wake(pool, WORK, helpers if helpers < sleepers else 0)
        _unlock(pool)


@jit
def _wait_for_helpers(pool, slot):
    for _ in range(CALLER_SPINS):
        if atomic_load(slot + ACTIVE) == 0:
            return
        pause()
    atomic_store(slot + WAITING, 1)
    _lock(pool)
    while atomic_load(slot + ACTIVE) != 0:
        _sleep(pool, DONE)
    _unlock(pool)
    atomic_store(slot + WAITING, 0)


@jit
def run_units(pool, threads, function, plan, call, units):
    """Compute all units of a job with at most `threads` threads, this one included.

    Parameters
    ----------
    pool : int
        Address.
    threads, units : int
    function : int
        Of `unit_function`.
    plan, call : int
        Addresses of the tuples that it takes.

    Returns
    -------
    bool
        Whether no unit failed, which can only be for want of memory.
    """
    helpers = min(threads, units) - 1
    slot = 0
    if helpers > 0:
        for s in range(N_SLOTS):
            slot = pool + SLOTS + s * SLOT_BYTES
            if atomic_load(slot + STATE) == FREE and atomic_replace(slot + STATE, FREE, CLOSED):
                break
            slot = 0
    if slot == 0:
        failed = 0
        for unit in range(units):
            failed += _call_unit(function, plan, call, 0, unit) != 0
        return failed == 0
    atomic_store(slot + FUNCTION, function)
    atomic_store(slot + PLAN, plan)
    atomic_store(slot + CALL, call)
    atomic_store(slot + UNITS, units)
    atomic_store(slot + MOST, helpers)
    atomic_store(slot + TICKETS, 0)
    atomic_store(slot + NEXT, 0)
    atomic_store(slot + FAILED, 0)
    _publish(pool, slot, helpers)
    _take_units(slot, 0)
    atomic_store(slot + STATE, CLOSED)
    _wait_for_helpers(pool, slot)
    failed = atomic_load(slot + FAILED)
    atomic_store(slot + STATE, FREE)
    return failed == 0


if config.DISABLE_JIT:  # plain Python, for coverage and debuggers: the caller computes all units

    def address_of(values):
        return values

    def unit_function(body, plan, call):
        return body

    def run_units(pool, threads, function, plan, call, units):
        for unit in range(units):
            function(plan, call, 0, unit)
        return True

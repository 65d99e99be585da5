import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgjax.numerics.host_loop import HostLoop

T = 6


class Recorded:
    """A loop over t: result = 2 * row + constant, and the next row is result + 1."""

    def __init__(self, loop, dtypes=(np.float32,)):
        self.loop = loop
        self.rows = [np.zeros((T + 1, 2, 3), dtype) for dtype in dtypes]
        self.results = np.full((T, 2, 3), -1, dtypes[0])
        self.times, self.threads = [], []

    def __call__(self, begin=0, end=T, until=T, then=lambda t: None):
        def step(t):
            self.times.append(t)
            self.threads.append(threading.get_ident())
            for row in self.rows:
                row[t + 1] = self.results[t] + 1
            then(t)
            return t + 1 >= until

        constant = np.asarray(1, self.results.dtype)
        self.loop(constant, self.rows, self.results, begin, end, step)
        return self


def twice(constant, row, *others):
    return 2 * row + constant


def step_by_step(fn):
    loop = HostLoop(fn)
    loop._possible = False
    return loop


@pytest.fixture(scope="module")
def loop():
    loop = HostLoop(twice)
    assert loop._possible  # with synchronous dispatch on a CPU; see conftest.py
    return loop


@pytest.mark.parametrize("make", [HostLoop, step_by_step])
def test_each_step_gets_what_python_wrote_after_the_one_before(make):
    done = Recorded(make(twice))()
    # x -> 2 x + 1, and one more for the next row: 1, 5, 13, ...
    assert done.results[:, 0, 0].tolist() == [1, 5, 13, 29, 61, 125]
    assert (done.results == done.results[:, :1, :1]).all()
    assert done.times == [0, 1, 2, 3, 4, 5]
    assert set(done.threads) == {threading.get_ident()}


@pytest.mark.parametrize("make", [HostLoop, step_by_step])
@pytest.mark.parametrize(
    ("begin", "end", "until", "times"),
    [(2, 5, T, [2, 3, 4]), (0, T, 3, [0, 1, 2]), (1, 2, T, [1]), (3, 3, T, []), (0, T, 1, [0])],
)
def test_steps_from_begin_to_end_or_until_python_stops(make, begin, end, until, times):
    done = Recorded(make(twice))(begin, end, until)
    assert done.times == times
    untouched = [t for t in range(T) if t not in times]
    assert (done.results[untouched] == -1).all()


def test_rows_of_several_dtypes(loop):
    done = Recorded(loop, (np.int32, np.uint8, np.float32))()
    assert done.results[:, 1, 2].tolist() == [1, 5, 13, 29, 61, 125]


def test_a_function_that_ignores_its_rows_is_called_in_each_step():
    done = Recorded(HostLoop(lambda constant, row: jnp.full((2, 3), constant)))()
    assert done.times == list(range(T))
    assert (done.results == 1).all()


@pytest.mark.parametrize("make", [HostLoop, step_by_step])
@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()]
)
def test_what_python_raises_ends_the_loop_and_arrives(make, error):
    def fail(t):
        if t == 2:
            raise error

    done = Recorded(make(twice))
    with pytest.raises(type(error)) as caught:
        done(then=fail)
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]
    assert done.times == [0, 1, 2]
    assert Recorded(done.loop)().times == list(range(T))  # the next loop is not affected


def test_loops_in_a_loop_and_compiled_functions_in_a_loop(loop):
    inner = [Recorded(loop) for _ in range(T)]
    product = jax.jit(lambda x: x @ x)

    def nest(t):
        inner[t]()
        assert product(np.full((4, 4), t, np.float32))[0, 0] == 4 * t * t

    outer = Recorded(loop)(then=nest)
    assert outer.results[:, 0, 0].tolist() == [1, 5, 13, 29, 61, 125]
    assert all((done.results == outer.results).all() for done in inner)


def test_loops_in_several_threads():
    loop, done = HostLoop(twice), []

    def run():
        for _ in range(20):
            done.append(Recorded(loop)(then=lambda t: time.sleep(1e-4)))
            assert set(done[-1].threads) == {threading.get_ident()} or len(done) > 20

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 60
    assert all(each.results[:, 0, 0].tolist() == [1, 5, 13, 29, 61, 125] for each in done)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_loop_stays_alive(loop, fails):
    class Env:
        pass

    def collect():
        env = Env()

        def use(t):
            assert env
            if fails and t == 1:
                raise ValueError

        with contextlib.suppress(ValueError):
            Recorded(loop)(then=use)
        return weakref.ref(env)

    gc.disable()
    try:
        assert collect()() is None
    finally:
        gc.enable()


SIGNALS = """
import signal
import jax
jax.config.update("jax_cpu_enable_async_dispatch", False)
import jax.numpy as jnp, numpy as np
from pgjax.numerics.host_loop import HostLoop
# Slow enough that most signals arrive while XLA computes.
loop = HostLoop(lambda constant, row: jnp.sin(row @ jnp.full((200, 200), 0.01)) + constant)
assert loop._possible
rows, results = np.zeros((10**4 + 1, 20, 200), np.float32), np.zeros((10**4, 20, 200), np.float32)
caught = 0
signal.signal(signal.SIGALRM, signal.default_int_handler)  # a thread might wait long to send SIGINT
for round in range(20):
    times = []
    def step(t):
        times.append(t)
        if t == 3:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + 0.0005 * (round % 5))
        return False
    try:
        loop(np.float32(0), [rows], results, 0, 10**4, step)
    except KeyboardInterrupt:
        caught += 1
    assert times == list(range(len(times))) and 3 < len(times) < 10**4, len(times)
print(caught)
"""


def test_ctrl_c_is_never_lost():
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("20\n", "", 0)


OFTEN = """
import gc, random, signal
import jax
jax.config.update("jax_cpu_enable_async_dispatch", False)
import numpy as np
from pgjax.numerics.host_loop import HostLoop
gc.disable()  # an exception in a callback of the garbage collector is lost anywhere
loop = HostLoop(lambda constant, row: row @ row + constant)
rows, results = np.zeros((5, 8, 8), np.float32), np.zeros((4, 8, 8), np.float32)
raised = caught = 0
def handler(*_):
    global raised
    raised += 1
    raise KeyboardInterrupt
def step(t):
    return False
signal.signal(signal.SIGALRM, handler)
loop(np.float32(0), [rows], results, 0, 4, step)
for _ in range(5000):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 3e-4))
        while True:
            loop(np.float32(0), [rows], results, 0, 4, step)
    except KeyboardInterrupt:
        caught += 1
assert loop._possible
print(raised, caught)
"""


def test_signals_at_any_moment_are_raised_once():
    done = subprocess.run(
        [sys.executable, "-c", OFTEN], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("5000 5000\n", "", 0)


def test_two_signals_in_one_step(loop):
    def both(t):
        for number in (signal.SIGALRM, signal.SIGUSR1):
            signal.raise_signal(number)

    seen = []

    def handler(number, frame):
        seen.append(number)
        raise TimeoutError(number)

    numbers = (signal.SIGALRM, signal.SIGUSR1)
    before = [signal.signal(n, handler) for n in numbers]
    try:
        with pytest.raises(TimeoutError):
            Recorded(loop)(then=both)
        assert [signal.getsignal(n) for n in numbers] == [handler, handler]
    finally:
        for n, old in zip(numbers, before, strict=True):
            signal.signal(n, old)
    assert seen == [signal.SIGALRM]  # its exception ends the step
    assert Recorded(loop)().times == list(range(T))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows, results: (rows.astype(np.float64), results),
        lambda rows, results: (rows, results.astype(np.int32)),
        lambda rows, results: (rows, np.asfortranarray(results)),
        lambda rows, results: (np.zeros((T + 1, 4, 3), np.float32)[:, ::2], results),
    ],
)
def test_arrays_that_xla_cannot_read_or_write_are_converted(loop, change):
    done = Recorded(loop)
    done.rows[0], done.results = change(done.rows[0], done.results)
    done.loop = lambda constant, *rest: loop(np.float32(constant), *rest)
    assert done().results[:, 0, 0].tolist() == [1, 5, 13, 29, 61, 125]


def test_debug_nans_finds_the_nan_of_a_step():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        Recorded(HostLoop(lambda constant, row: jnp.log(row - constant)))()


ELSEWHERE = """
import threading
import jax
import numpy as np
jax.config.update("jax_cpu_enable_async_dispatch", {flag})
jax.numpy.zeros(3)  # starts the backend
jax.config.update("jax_cpu_enable_async_dispatch", False)
from pgjax.numerics.host_loop import HostLoop
loop, threads = HostLoop(lambda constant, row: row @ row + constant), set()
for _ in range(3):
    rows, results = np.zeros((4, 64, 64), np.float32), np.zeros((3, 64, 64), np.float32)
    def step(t):
        threads.add(threading.current_thread())
        rows[t + 1] = results[t]
        return False
    loop(np.float32(1), [rows], results, 0, 3, step)
    assert results[:, 0, 0].tolist() == [1, 65, 64 * 65**2 + 1]
assert threads == {{threading.main_thread()}}
print(loop._possible)
"""


@pytest.mark.parametrize("flag", [True, False])
def test_python_is_called_in_its_own_thread_only(flag):
    # The setting counts when the backend starts; later changes have no effect.
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(flag=flag)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == (f"{not flag}\n", "")


def test_signal_handlers_run_between_steps(loop):
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        Recorded(loop)(then=lambda t: os.kill(os.getpid(), signal.SIGALRM))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == T

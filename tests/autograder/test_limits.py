"""Limits of time: what counts is the processor time of the submission, whoever else is busy on the machine."""

import os
import sys
import time

import pytest
from conftest import busy, write_lesson

from autograder.box import clock, cpu
from autograder.box.budget import LEAST_S, TIMES, Allowed, Budget, Cost
from autograder.box.clock import Clock, Limits, Usage
from autograder.box.sandbox import Sandbox
from autograder.box.session import MOST_NOTES, Session
from autograder.errors import BoxError, StudentTimeout
from autograder.grade import Grader
from autograder.lesson import load
from autograder.options import Asked
from autograder.scorecard import FAILED, PASSED
from autograder.student import Student
from autograder.submission import Submission

WORK = """
import os, signal, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
    return "done"

def loop():
    while True: pass

def sleep():
    time.sleep(600)

def deadlock():
    import threading
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def work_and_sleep():
    while True:
        burn(0.05)
        time.sleep(0.15)

def in_a_child():
    if not os.fork(): loop()
    os.wait()

def in_a_grandchild():
    if not os.fork():
        if not os.fork(): loop()
        os._exit(0)
    os.wait()
    time.sleep(600)

def in_children_nobody_collects():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if not os.fork():
            burn(0.4)
            os._exit(0)
        time.sleep(0.5)

def in_a_thread():
    import threading
    threading.Thread(target=loop).start()
    time.sleep(600)

def drip():
    for fd in range(3, 60):
        try: os.fstat(fd); os.write(fd, b"\\x10")
        except OSError: pass
    while True:
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def one_core():
    """This process, and what it starts, on one core: what is busy there is busy beside us."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be kept to a core here")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def sandbox(one_core):
    with Sandbox() as box:
        yield box


@pytest.fixture
def slot(sandbox):
    with sandbox.slot({"work.py": WORK.encode()}) as slot:
        yield slot


def ask(slot, function, *args, timeout):
    channel = slot.channel("work", seed=1, timeout=5)
    try:
        return channel.ask({"call": f"work.{function}", "args": list(args), "kwargs": {}, "device": "cpu"}, timeout)
    finally:
        channel.close()


# ---------------------------------------------------------------------------------------------- in the box


@pytest.mark.parametrize("neighbours", [0, 3])
@pytest.mark.parametrize("function", ["loop", "in_a_child", "in_a_grandchild", "in_a_thread"])
def test_what_computes_is_stopped_after_so_much_processor_time(slot, function, neighbours):
    with (
        busy(neighbours),
        pytest.raises(StudentTimeout, match=rf"work.{function} used more than 0.5 s of processor time"),
    ):
        ask(slot, function, timeout=0.5)

    assert 0.5 <= slot.cpu_s < 2.0


def test_children_that_nobody_collects_count(slot):
    with pytest.raises(StudentTimeout, match="used more than 1 s of processor time"):
        ask(slot, "in_children_nobody_collects", timeout=1.0)


def test_busy_neighbours_shorten_nothing(slot):
    with busy(4):
        time.sleep(0.5)
        started = time.monotonic()
        reply = ask(slot, "burn", 1.5, timeout=2.0)

    assert reply == {"value": "done"}
    assert time.monotonic() - started > 2.5  # the machine was busy indeed


@pytest.mark.parametrize("neighbours", [0, 3])
@pytest.mark.parametrize("function", ["sleep", "deadlock"])
def test_what_only_waits_is_stopped_sooner_than_the_wall_clock_would(slot, function, neighbours, monkeypatch):
    monkeypatch.setattr(clock, "LEAST_IDLE_S", 1.0)
    started = time.monotonic()

    with busy(neighbours), pytest.raises(StudentTimeout, match="did nothing for 1 s: it is waiting for something"):
        ask(slot, function, timeout=1.0)
    assert time.monotonic() - started < 15
    assert slot.cpu_s < 1.0


@pytest.mark.parametrize("neighbours", [0, 3])
def test_what_works_and_sleeps_in_turns_is_stopped_by_the_wall_clock(slot, neighbours):
    with busy(neighbours), pytest.raises(StudentTimeout, match=r"did not answer within \d"):
        ask(slot, "work_and_sleep", timeout=Limits(5.0, 5.0, 2.0, starved_s=8.0))


def test_what_gets_no_processor_is_not_charged(slot):
    """It would answer, on a machine that is less busy."""
    with busy(12), pytest.raises(BoxError, match="calling work.burn did not answer within .* the machine is too busy"):
        ask(slot, "burn", 20, timeout=Limits(30.0, 30.0, 2.0, starved_s=2.0))


def test_bytes_that_drip_in_set_nothing_back(slot):
    started = time.monotonic()

    with pytest.raises(StudentTimeout):
        ask(slot, "drip", timeout=Limits(5.0, 30.0, 2.0))
    assert time.monotonic() - started < 5


def test_orphans_count_where_slots_have_no_user_of_their_own(one_core):
    with (
        Sandbox(without=["uid"]) as sandbox,
        sandbox.slot({"work.py": WORK.encode()}) as slot,
        pytest.raises(StudentTimeout, match="used more than 1 s of processor time"),
    ):
        ask(slot, "in_a_grandchild", timeout=1.0)


def test_what_one_slot_uses_is_not_counted_in_another(sandbox, slot):
    if "uid" not in sandbox.layers:
        pytest.skip("orphans belong to any slot where slots have no users of their own")
    with sandbox.slot({"work.py": WORK.encode()}) as other:
        ask(other, "burn", 0.0, timeout=1.0)
        with pytest.raises(StudentTimeout):
            ask(slot, "in_a_grandchild", timeout=1.0)

        assert other.usage().cpu_s < 0.5 < slot.usage().cpu_s


def test_ranks_compute_together(sandbox):
    with Session(lambda: sandbox.slot({"work.py": WORK.encode()})) as session:
        student = Student(session.processes(("work", "test"), 1))

        with pytest.raises(StudentTimeout, match="used more than 1 s of processor time: rank 0 computes"):
            student.on(ranks=2, timeout=1).call("work.loop")


def test_an_answer_that_comes_soon_costs_no_look(slot, monkeypatch):
    looks = []
    monkeypatch.setattr(slot, "usage", lambda: looks.append(1))

    ask(slot, "burn", 0.01, timeout=5.0)
    assert looks == []


# ---------------------------------------------------------------------------------------------- the clock and the meter


def clock_of(usages, limits):
    """What became of a clock that sees these usages, one a look."""
    seen = iter(usages)
    last = [Usage(0.0)]

    def usage():
        last[0] = next(seen, last[0])
        return last[0]

    found = Clock(limits, usage)
    while found():
        time.sleep(0.01)
    return found.over


def test_a_clock_without_a_reading_has_the_wall_alone():
    assert clock_of([None] * 99, Limits(0.2, 0.2, 0.5)) == "did not answer within 0.5 s"


def test_who_waits_for_a_processor_is_not_idle():
    starving = [Usage(1.0, awake=True)] * 99

    assert clock_of(starving, Limits(0.4, 0.2, 0.8)) == "did not answer within 0.8 s"
    assert clock_of([Usage(1.0)] * 99, Limits(0.4, 0.2, 0.8)).startswith("did nothing for 0.2 s")


def starving(limits, idle_between=0):
    """A clock of code that always could compute, and never gets a processor."""
    seen = iter([Usage(1.0, awake=True, ready=True)] * 9 + [Usage(1.0)] * idle_between)
    found = Clock(limits, lambda: next(seen, Usage(1.0, awake=True, ready=True)))
    began = time.monotonic()
    while found():
        time.sleep(0.005)
    return found, time.monotonic() - began


def test_who_gets_no_processor_has_more_time_and_then_it_is_the_machines_fault():
    found, lasted = starving(Limits(0.2, 9, 0.3, starved_s=0.6))

    fault = found.fault("calling f")
    assert isinstance(fault, BoxError), fault
    assert "waited for a processor: the machine is too busy" in str(fault)
    assert 0.85 < lasted < 2.0
    assert found.limits.spent.idle_s == 0


def test_a_wait_that_must_end_soon_is_the_machines_fault_too():
    """The end of a zip's time: nothing can be added."""
    found, lasted = starving(Limits(0.2, 9, 0.4))

    assert isinstance(found.fault("calling f"), BoxError)
    assert 0.35 < lasted < 0.8


def test_what_sleeps_for_most_of_its_time_is_at_fault_on_a_busy_machine_too():
    found, lasted = starving(Limits(0.2, 99, 0.9, starved_s=9), idle_between=999)

    assert isinstance(found.fault("calling f"), StudentTimeout)
    assert lasted < 2.5


def test_what_was_used_before_the_wait_is_not_counted():
    assert clock_of([Usage(100.0, True), Usage(100.3, True), Usage(100.5, True)], Limits(0.4, 9, 9)).startswith(
        "used more"
    )
    assert clock_of([Usage(100.0, True)] * 99, Limits(0.4, 9, 0.5)).startswith("did not answer")


def test_a_meter_keeps_what_ended_processes_used(monkeypatch):
    sums = iter([3.0, 1.0, 1.0, 1.5])
    monkeypatch.setattr(cpu, "used_by", lambda pids: next(sums))
    meter = cpu.Meter()
    meter.read([])  # 3.0
    meter.read([])  # 1.0, and 1.0 when it looks again: two seconds went with a child
    meter.read([])

    assert meter.seconds == pytest.approx(3.5)


def test_a_child_that_is_collected_while_the_meter_reads_counts_once(monkeypatch):
    sums = iter([3.0, 1.0, 3.0, 3.1])
    monkeypatch.setattr(cpu, "used_by", lambda pids: next(sums))
    meter = cpu.Meter()
    for _ in range(3):
        meter.read([])

    assert meter.seconds == pytest.approx(3.1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:01.50", 1.5), ("1:02", 62), ("02:00:01", 7201), ("1-00:00:02", 86402), ("100:00.25", 6000.25)],
)
def test_ps_is_read(text, seconds):
    assert cpu._seconds(text) == seconds


# ---------------------------------------------------------------------------------------------- the budget


def test_a_test_gets_what_the_solution_needs_once_two_took_too_long():
    budget = Budget(Allowed(10, 100, 1000, 60))
    budget.begin(("m", "a"))
    budget.overran(ValueError())
    assert not budget.is_tight
    budget.overran(ValueError())
    budget.needed = {("m", "b"): Cost(calls=0.2)}
    budget.begin(("m", "b"))

    assert budget.for_a_call(10).cpu_s == pytest.approx(LEAST_S.calls + TIMES * 0.2)
    assert budget.for_a_call(1).cpu_s == 1
    assert budget.for_the_tests_own_code() == pytest.approx(LEAST_S.own)


@pytest.mark.parametrize(("used", "slept", "is_ours"), [(0.5, 0.0, True), (3.0, 0.0, False), (0.5, 3.0, False)])
def test_a_lesson_that_ends_on_the_wall_is_ours_where_the_machine_did_not_work(monkeypatch, used, slept, is_ours):
    usages = iter([Usage(0.0), Usage(used)])
    budget = Budget(Allowed(10, 100, 5.0, 60), usage=lambda: next(usages), exact=True)
    budget.begin(("m", "a"))
    budget.for_a_call(1).spent.idle_s += slept
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)

    if is_ours:
        with pytest.raises(BoxError, match="the 5 s for the whole lesson were used up: the machine is too busy"):
            budget.spent()
    else:
        assert budget.spent() == "the time for the whole lesson was used up"


def test_a_wait_ends_with_the_lesson_however_long_it_starves():
    limits = Budget(Allowed(10, 100, 100.0, 60)).for_a_call(10)

    assert limits.wall_s == 80
    assert 19 < limits.starved_s <= 20


def test_one_failed_import_is_one_overrun():
    budget, error = Budget(Allowed(10, 100, 1000, 60)), ValueError()
    for _ in range(5):
        budget.overran(error)

    assert not budget.is_tight


def test_what_comes_before_any_test_is_limited_and_nobodys():
    used = iter([Usage(0.0), Usage(3.0), Usage(3.0), Usage(4.0)])
    budget = Budget(Allowed(10, 100, 1000, 60), usage=lambda: next(used), exact=True)

    assert budget.for_a_call(10).cpu_s == 10
    budget.for_a_call(10)
    budget.begin(("m", "a"))
    budget.for_a_call(10)
    budget.end(0.5)
    assert budget.costs == {("m", "a"): Cost(calls=1.0, own=0.5)}


def test_a_session_notes_so_many_calls_of_a_test_and_no_more():
    session = Session(lambda: None)
    calls = tuple(f"name (work.py:{line})" for line in range(2 * MOST_NOTES))

    session.note(("m", "a"), calls[:3])
    session.note(("m", "a"), calls)  # a process sends all that it has noted with every reply
    session.note(("m", "b"), ())
    assert session.used == {("m", "a"): set(calls[:MOST_NOTES])}


def test_half_of_the_lessons_time_makes_it_tight():
    budget = Budget(Allowed(10, 100, 1000, 60), usage=lambda: Usage(51.0), exact=True)
    budget.begin(("m", "a"))
    budget.for_a_call(10)

    assert budget.is_tight


# ---------------------------------------------------------------------------------------------- a grading

FUNCTIONS = "abcdefgh"
SOLUTION = "import time\n" + "".join(f"def {name}(x):\n    return x + 1\n" for name in FUNCTIONS)
SUITE = "import pytest\n" + "".join(
    f"""
@pytest.mark.points(1)
@pytest.mark.question("One for all")
@pytest.mark.parametrize("x", [1, 2, 3])
def test_{name}(student, check, x):
    check(student.call("toy.{name}", x), x + 1)
"""
    for name in FUNCTIONS
)


@pytest.fixture(scope="module")
def grade(tmp_path_factory, one_core):
    """Grades the solution after changes, name of a function -> its new last line."""
    root = tmp_path_factory.mktemp("limits")
    write_lesson(root, SOLUTION, SUITE, "call_timeout_s = 1.0\ndeadline_s = 20\n")
    lesson = load("99-toy", root)

    with Grader(lesson) as grader:

        def grade(changes):
            text = SOLUTION
            for name, line in changes.items():
                text = text.replace(f"def {name}(x):\n    return x + 1", f"def {name}(x):\n    {line}")
            return grader.grade(Submission("student", "", {"toy.py": text.encode()}), Asked(seed=1))

        yield grade


def statuses(card):
    return {row.test.removeprefix("test_"): row.status for row in card.outcomes}


def test_one_overrun_costs_its_own_test(grade):
    card = grade({"b": "while True: pass"})

    assert statuses(card) == dict.fromkeys(FUNCTIONS, PASSED) | {"b": FAILED}
    assert card.outcomes[1].message == "calling toy.b used more than 1 s of processor time"
    assert card.measurements.student_cpu_seconds < 3  # its other cases were not tried


@pytest.mark.slow
def test_many_overruns_cost_their_own_tests(grade):
    card = grade({name: "while True: pass" if name in "ac" else "time.sleep(99)" for name in "aceg"})

    assert statuses(card) == {name: FAILED if name in "aceg" else PASSED for name in FUNCTIONS}
    assert "after 2 that took too long" not in card.outcomes[2].message


@pytest.mark.slow
def test_where_everything_loops_the_whole_is_bounded(grade):
    card = grade(dict.fromkeys(FUNCTIONS, "while True: pass"))

    assert set(statuses(card).values()) == {FAILED}
    assert "after 2 that took too long, a test gets 10 times what it should need" in card.outcomes[-1].message
    assert card.measurements.student_cpu_seconds < 2 * (1.0 + 0.6) + 6 * (LEAST_S.calls + 0.6)


@pytest.mark.slow
def test_where_everything_sleeps_the_whole_is_bounded(grade, monkeypatch):
    monkeypatch.setattr(clock, "LEAST_IDLE_S", 1.0)
    card = grade(dict.fromkeys(FUNCTIONS, "time.sleep(99)"))

    assert set(statuses(card).values()) == {FAILED}
    assert card.measurements.seconds < 30


@pytest.mark.slow
def test_slow_work_beside_busy_neighbours_passes(grade):
    burning = (
        "import math; end = time.process_time() + 0.3\n    while time.process_time() < end: pass\n    return x + 1"
    )
    with busy(4):
        card = grade({"a": burning, "d": burning})

    assert set(statuses(card).values()) == {PASSED}


def test_an_import_that_loops_is_told_to_each_test(grade):
    card = grade({"a": "return x + 1\nwhile True: pass"})

    assert set(statuses(card).values()) == {FAILED}
    assert {row.message for row in card.outcomes} == {"importing toy.py used more than 1 s of processor time"}
    assert card.measurements.student_cpu_seconds < 3


@pytest.mark.slow
def test_the_tests_own_time_is_processor_time_too(tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.grade.TEST_S", 0.5)
    suite = """
        import time
        import pytest
        @pytest.mark.points(1)
        def test_waits(student):
            student.call("toy.causal_mask", 2)
            time.sleep(1)
        @pytest.mark.points(1)
        def test_computes(student):
            for _ in range(student.call("toy.causal_mask", 2).numel() * 10**12):
                pass
    """
    write_lesson(tmp_path, suite=suite)
    lesson = load("99-toy", tmp_path)
    with Grader(lesson) as grader:
        card = grader.grade(Submission("student", "", lesson.solution_files()), Asked(seed=1))

    assert [row.status for row in card.outcomes] == [PASSED, "grader_error"]  # the solution too keeps it busy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nobody reads it elsewhere")
def test_a_test_can_ask_how_much_memory_a_call_took(tmp_path):
    suite = """
        import pytest
        @pytest.mark.points(1)
        def test_memory(student):
            ranks = student.on(ranks=2)

            def probe(size):
                import toy
                return toy.hold(size)

            _, few = ranks.peak(probe, 1 << 20)
            _, many = ranks.peak(probe, 40 << 20)
            _, again = ranks.peak(probe, 1 << 20)
            assert 36 << 20 < many - few < 44 << 20, f"{(many - few) / 2**20} MB"
            assert abs(again - few) < 4 << 20, f"{(again - few) / 2**20} MB"
    """
    solution = "def hold(size):\n    return len(b'1' * size)\n"
    write_lesson(tmp_path, suite=suite, solution=solution)
    lesson = load("99-toy", tmp_path)
    with Grader(lesson) as grader:
        card = grader.grade(Submission("student", "", lesson.solution_files()), Asked(seed=1))

    assert [row.status for row in card.outcomes] == [PASSED], card.outcomes


@pytest.mark.slow
def test_a_test_can_ask_what_a_call_cost(tmp_path):
    suite = """
        import pytest
        @pytest.mark.points(1)
        def test_cost(student):
            before = student.cpu_s()
            student.call("toy.burn", 0.5)
            assert 0.45 < student.cpu_s() - before < 0.8, f"{student.cpu_s() - before} s"
    """
    solution = "import time\ntime.process_time = lambda: 0.0\ndef burn(seconds):\n    end = time.thread_time() + seconds\n    while time.thread_time() < end: pass\n"
    write_lesson(tmp_path, suite=suite, solution=solution)
    lesson = load("99-toy", tmp_path)
    with Grader(lesson) as grader:
        card = grader.grade(Submission("student", "", lesson.solution_files()), Asked(seed=1))

    assert [(row.status, row.detail) for row in card.outcomes] == [(PASSED, "")]

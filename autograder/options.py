"""What a grading is told: the records that the command line and authors' tools make, and that jobs carry."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GraderOptions:
    """How a Grader grades, whatever the submission.

    Attributes:
        require: layers of the box without which nothing is graded; without: layers left out (for tests of the fallbacks).
        gpu_device: what GPU-marked tests run on; None leaves them pending. only_gpu: run nothing else.
        own_prerequisites: use the student's modules of used lessons, if there are any, instead of the reference ones.
        wall_s: seconds on the clock after which nothing more is started; None is a multiple of the lesson's processor time.
    """

    require: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    gpu_device: str | None = None
    only_gpu: bool = False
    own_prerequisites: bool = False
    wall_s: float | None = None


@dataclass(frozen=True)
class Asked:
    """What is graded of one submission, and on which inputs.

    Attributes:
        modules: these only; None is all of the lesson. tests: and in them these test functions only; None is all.
        seed: of all inputs; None draws a secret one.
        stop_early: end at the first case that does not pass: for mutants, of which one failure says all.
        in_a_class: the total is to be out of the same points as the others' (witness.py).
    """

    modules: tuple[str, ...] | None = None
    tests: tuple[str, ...] | None = None
    seed: int | None = None
    stop_early: bool = False
    in_a_class: bool = False


AS_USUAL = GraderOptions()
ALL = Asked()

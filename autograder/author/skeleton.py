"""`autograder new-lesson`: the files of a lesson that works, to be written over.

Each module starts with one function, its hidden and public test, one right and one wrong sample: everything that
tests/test_repository.py asks for, so that a new lesson is green there and in `make lint` from its first minute. `make costs` adds
its rows to docs/proof.md, which tests/test_costs.py asks for; what it holds of them (a mistake costs a tenth of its module)
is reached when the module has a suite.
"""

import keyword
import re
from pathlib import Path

from ..errors import UsageError
from ..lesson import Lesson, lesson_names, load
from .starter import write_starter

_LESSON = """\
title = "{title}"
modules = [{modules}]
hours = "4"
"""

_HANDOUT = """\
# {title}

What this lesson is about, in two or three sentences.

## Goals

What a student can do afterwards: a list of five or so, each with a verb.

## What you write

**Time to plan: 4 hours.** {files}: what each function does, and a good order to write them in.

## Theory

The formulas, with their papers, and the reason for each line of code that would surprise a reader.

## Activities

Code that explores the modules. Each block runs on its own; a test runs them all against the solutions.

### 1. Rows that sum to 1

```python
import torch
from {module} import scale_rows

print(scale_rows(torch.arange(6.0).reshape(2, 3)))
```

## Experiments

What to change and try out, with the question that each experiment answers.

## Check your understanding

1. Questions that the text does not answer word for word, and that a student can answer after the activities.

## What goes wrong

| you see | look for |
|---|---|
| rows that do not sum to 1 | a sum over the wrong dimension |

## Submit

Submit {files}. Run the public tests with `pytest` in this folder. Hidden tests look at more cases than they do;
their feedback names the mistake.

## Since then

What has changed in the field since the papers of this lesson: half a page, one reference for each point.

## Reading

- The papers that the text quotes: authors, year, title, and which section to read.
"""

_SOLUTION = '''\
"""One sentence on what this module teaches."""

import torch


def scale_rows(x: torch.Tensor) -> torch.Tensor:
    """Scales each row of x so that it sums to 1.

    Args:
        x: (..., T) positive numbers.

    Returns:
        (..., T) in the dtype of x.

    Raises:
        ValueError: x has no dimension.
    """
    # student: divide each row by its sum
    if x.dim() == 0:
        raise ValueError(f"x must have a dimension, not the shape {tuple(x.shape)}")
    return x / x.sum(dim=-1, keepdim=True)
'''

_HIDDEN = '''\
"""Hidden tests of {module}.py."""

import pytest
import torch

pytestmark = pytest.mark.question("scale_rows")


@pytest.mark.points(2)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 2, 3)])
def test_rows_sum_to_one(student, check, rng, shape):
    """Each row is divided by its sum."""
    x = torch.rand(shape, generator=rng) + 0.5

    scaled = student.call("{module}.scale_rows", x)

    truth = x.double()
    check(
        scaled,
        truth / truth.sum(-1, keepdim=True),
        dtype=torch.float32,
        mistakes={{
            "the sum runs over the rows, not within each": truth / truth.sum(0, keepdim=True),
            "everything is divided by one sum": truth / truth.sum(),
        }},
    )


@pytest.mark.points(1)
def test_a_number_is_refused(student):
    """A tensor without a dimension is a ValueError."""
    x = torch.tensor(1.0)

    student.accepts("{module}.scale_rows", x[None])
    student.raises(ValueError, "{module}.scale_rows", x, says="x")
'''

_PUBLIC = '''\
"""Public tests of {module}.py: run `pytest` in this folder."""

import torch


def test_two_rows(student, check):
    x = torch.tensor([[1.0, 3.0], [1.0, 1.0]])

    scaled = student.call("{module}.scale_rows", x)

    check(scaled, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
'''

_RIGHT = '''\
"""The same, row by row."""

import torch


def scale_rows(x):
    if x.dim() == 0:
        raise ValueError("x needs a dimension")
    rows = [row / row.sum() for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)
'''

_WRONG = """\
why = "The sum runs over the first dimension."
fails = ["test_rows_sum_to_one"]
mistake = "the sum runs over the rows, not within each"

[[change]]
old = "x.sum(dim=-1, keepdim=True)"
new = "x.sum(dim=0, keepdim=True)"
"""


def new_lesson(root: Path, name: str, modules: list[str]) -> Lesson:
    """Writes the skeleton of a lesson and returns it.

    Raises:
        UsageError: the name or a module's name is taken or does not fit; nothing is written then.
    """
    _refuse_bad_names(root, name, modules)
    title = name.partition("-")[2].replace("-", " ").capitalize()
    values = {
        "title": title,
        "modules": ", ".join(f'"{module}"' for module in modules),
        "module": modules[0],
        "files": " and ".join(f"`{module}.py`" for module in modules),
    }
    files = {f"assignments/{name}/lesson.toml": _LESSON, f"assignments/{name}/handout.md": _HANDOUT}
    for path, template in files.items():
        _write(root / path, template.format(**values))
    for module in modules:
        _write_module(root, name, module)
    lesson = load(name, root)
    write_starter(lesson)
    return lesson


def _write_module(root, lesson, module):
    tests, samples = root / "tests" / "lessons" / lesson, root / "tests" / "submissions" / lesson
    _write(root / "solutions" / lesson / f"{module}.py", _SOLUTION)
    _write(tests / f"test_{module}.py", _HIDDEN.format(module=module))
    _write(tests / f"test_{module}_public.py", _PUBLIC.format(module=module))
    _write(samples / "right" / f"{module}-row-by-row" / f"{module}.py", _RIGHT)
    _write(samples / "right" / f"{module}-row-by-row" / "expect.toml", 'why = "Rows are scaled one by one."\n')
    _write(samples / "wrong" / module / f"{module}-sum-over-rows.toml", _WRONG)


def _refuse_bad_names(root, name, modules):
    number, _, rest = name.partition("-")
    if not (len(number) == 2 and number.isdigit() and rest.replace("-", "").isalnum() and rest == rest.lower()):
        raise UsageError(f"{name!r} is not a lesson's name: give two digits and words, such as 10-tokenizers")
    if name in lesson_names(root):
        raise UsageError(f"{root / 'assignments' / name} already exists")
    taken = {module: lesson for lesson in lesson_names(root) for module in load(lesson, root).modules}
    for module in modules:
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", module) or keyword.iskeyword(
            module
        ):  # lesson.py, ModuleName
            raise UsageError(
                f"{module!r} is not a module's name: give lower-case letters and digits, with a _ between words"
            )
        if module in taken or modules.count(module) > 1:
            raise UsageError(
                f"the module name {module!r} is taken by {taken.get(module, name)}: names are unique over all lessons"
            )


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")

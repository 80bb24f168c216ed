"""Mutants are small, different from the solution, and of the kinds that students make; prove.py counts them."""

import re
import textwrap

import pytest
from conftest import TOY_SOLUTION, write_lesson

from autograder.author.idle import Idle, idle
from autograder.author.mutants import mutants_of
from autograder.author.prove import ProofTable, as_entry, explanations, prove
from autograder.errors import LessonError
from autograder.lesson import load

pytestmark = pytest.mark.usefixtures("graders_share_a_box")


def changes(source, operator=None):
    found = mutants_of(textwrap.dedent(source))
    return {(mutant.old, mutant.new) for mutant in found if operator in (None, mutant.operator)}


@pytest.mark.parametrize(
    ("operator", "old", "new"),
    [
        ("drop an operand", "y = a / b", "y = a"),
        ("drop an operand", "y = a * b", "y = b"),
        ("change an operator", "y = a + b", "y = a - b"),
        ("change an operator", "y = -a", "y = a"),
        ("flip a comparison", "y = a < b", "y = a <= b"),
        ("off by one", "y = range(3)", "y = range(4)"),
        ("off by one", "y = x[-1]", "y = x[-2]"),
        ("off by one", "y = x[-1]", "y = x[0]"),
        ("change a constant", "y = 1e-05", "y = 0.001"),
        ("change a constant", "y = f(x, keepdim=True)", "y = f(x, keepdim=False)"),
        ("drop a call", "y = x.clone()", "y = x"),
        ("drop a call", "y = F.softmax(x, dim=-1)", "y = x"),
        ("swap two arguments", "y = f(a, b)", "y = f(b, a)"),
        ("drop a keyword argument", "y = f(x, dim=1)", "y = f(x)"),
        ("negate a condition", "y = a if c else b", "y = a if not (c) else b"),
        ("negate a condition", "y = a and b", "y = a or b"),
        ("take another function", "y = torch.tril(x)", "y = torch.triu(x)"),
    ],
)
def test_an_operator_makes_its_mistake(operator, old, new):
    assert (old, new) in changes(old, operator)


def test_arguments_whose_order_is_nothing_are_not_swapped():
    assert (
        changes("y = x.transpose(1, 2)", "swap two arguments")
        == changes("y = min(a, b)", "swap two arguments")
        == set()
    )


# source -> the mutants that are left out; others of the same operator are still made.
NEEDLESS = {
    "y = abs(a - b)": {"y = abs(b - a)"},
    "y = torch.abs(a - b)": {"y = torch.abs(b - a)"},
    "y = (a - b).abs()": {"y = (b - a).abs()"},
    "y = (a - b).float().square()": {"y = (b - a).float().square()"},
    "y = (a - b).mean().abs()": {"y = (b - a).mean().abs()"},
    "y = (a - b) ** 2": {"y = (b - a) ** 2", "y = (a - b) ** 1"},
    "y = abs(-a)": {"y = abs(a)"},
    "y = a + 0": {"y = a", "y = a - 0"},
    "y = a * 1": {"y = a", "y = a / 1"},
    "y = 1 * a": {"y = a"},
    "y = -0.0": {"y = 0.0"},
    "y = a - 1": {"y = a - 0"},
    "y = 2 * a": {"y = 1 * a"},
    "y += 1": {"y += 0"},
    "y = x[-1]": {"y = x[-0]"},
    "y = hypot(a, b)": {"y = hypot(b, a)"},
    "y = x.topk(k, dim=-1)": {"y = x.topk(k)"},
    "y = x.sum(0, keepdim=True)": {"y = x.sum(0)"},
    "y = zip(a, b, strict=True)": {"y = zip(a, b)"},
    "for a in b:\n    f(a)\n    continue": {"continue -> pass"},
}
# What looks like these and is a mistake.
NEEDED = {
    "y = abs(a) - b": "y = b - abs(a)",
    "y = f(a - b)": "y = f(b - a)",
    "y = (a - b) ** 3": "y = (b - a) ** 3",
    "y = abs(a, b - c)": "y = abs(a, c - b)",
    "y = (a - b).exp().abs().log()": "y = (b - a).exp().abs().log()",
    "y = 0 - a": "y = a - 0",
    "y = 1 / a": "y = 1",
    "y = a - 2": "y = a - 1",
    "y = x[1]": "y = x[0]",
    "y = x[-1]": "y = x[0]",
    "y = x.topk(k, dim=1)": "y = x.topk(k)",
    "y = m.load_state_dict(s, strict=False)": "y = m.load_state_dict(s, strict=True)",
    "for a in b:\n    if a:\n        continue\n    f(a)": "pass",
}


def made_of(source):
    """What stands there instead, without brackets around brackets."""
    return {re.sub(r"\(\(([^()]*)\)\)", r"(\1)", new) for _, new in changes(source)}


@pytest.mark.parametrize("source", NEEDLESS)
def test_what_changes_nothing_by_its_text_is_not_made(source):
    made = made_of(source) | {f"{old} -> {new}" for old, new in changes(source)}

    assert made & NEEDLESS[source] == set()


def test_two_equal_arguments_over_several_lines_are_not_swapped():
    swapped = changes("def g(a, b):\n    y = f(\n        a,\n        a,\n        b,\n    )\n", "swap two arguments")

    assert [(old.split(), new.split()) for old, new in swapped if old.split() == new.split()] == []


@pytest.mark.parametrize("source", NEEDED)
def test_what_only_looks_so_is_made(source):
    assert NEEDED[source] in made_of(source)


def test_validations_statements_and_results_are_mutated():
    source = """
        def f(x, n):
            if n < 1:
                raise ValueError(n)
            x.add_(1)
            return x + n
    """

    assert ("if n < 1: ⏎ raise ValueError(n)", "pass") in changes(source, "remove a validation")
    assert ("x.add_(1)", "pass") in changes(source, "remove a statement")
    assert ("return x + n", "return x") in changes(source, "return an input")


def test_docstrings_annotations_imports_and_messages_are_left_alone():
    source = """
        '''Version 3.'''
        from a import b
        def f(x: Tensor[3]):
            '''Returns 2 x.'''
            print(f"{1 + 1}")
            return x
    """

    assert changes(source) <= {("return x", "return x"), ('print(f"{1 + 1}")', "pass")}


def test_every_mutant_compiles_and_is_another_text():
    found = mutants_of(textwrap.dedent(TOY_SOLUTION))

    assert len({mutant.source for mutant in found}) == len(found) > 5
    assert all(compile(mutant.source, "m", "exec") for mutant in found)


def test_source_that_does_not_parse_is_named():
    with pytest.raises(LessonError, match="toy.py does not parse"):
        mutants_of("def f(:", "toy.py")


# ---------------------------------------------------------------------------------------------- prove


@pytest.fixture
def lesson(tmp_path):
    write_lesson(tmp_path)
    return load("99-toy", tmp_path)


def test_survivors_are_listed_and_can_be_explained(tmp_path):
    suite = """
        import pytest, torch
        @pytest.mark.points(1)
        def test_that_refuses_nothing(student, check):
            check(student.call("toy.causal_mask", 3), torch.ones(3, 3, dtype=torch.bool).tril())
    """
    write_lesson(tmp_path, suite=suite)
    lesson = load("99-toy", tmp_path)
    proof = prove(lesson, "toy")
    survivors = [(mutant.old, mutant.new) for mutant in proof.survivors]

    assert proof.killed + len(survivors) == proof.mutants
    assert proof.killed > 3
    assert survivors
    entries = "\n".join(as_entry("toy", mutant).replace('why = ""', 'why = "a reason"') for mutant in proof.survivors)
    lesson.samples.mkdir(parents=True)
    (lesson.samples / "equivalent.toml").write_text(entries)
    again = prove(lesson, "toy")
    assert again.survivors == ()
    assert [(mutant.old, mutant.new) for mutant, _ in again.explained] == survivors
    assert again.share == 100


def test_a_test_that_the_solution_fails_kills_no_mutant(tmp_path):
    suite = """
        import pytest, torch
        @pytest.mark.points(1)
        def test_wrong(student, check):
            check(student.call("toy.causal_mask", 3), torch.ones(3, 3, dtype=torch.bool).triu())
        @pytest.mark.points(1)
        def test_right(student, check):
            check(student.call("toy.causal_mask", 3), torch.ones(3, 3, dtype=torch.bool).tril())
    """
    write_lesson(tmp_path, suite=suite.partition("        @pytest.mark.points(1)\n        def test_right")[0])
    nothing_killed = prove(load("99-toy", tmp_path), "toy")
    write_lesson(tmp_path, suite=suite)
    proof = prove(load("99-toy", tmp_path), "toy")

    assert nothing_killed.killed == 0
    assert proof.killed > 3, "a broken test does not hide what the others find"


def test_an_explanation_of_nothing_is_stale(lesson):
    lesson.samples.mkdir(parents=True)
    (lesson.samples / "equivalent.toml").write_text('[[equivalent]]\nmodule = "toy"\nold = "a"\nnew = "b"\nwhy = "c"')

    assert prove(lesson, "toy").stale == (("a", "b"),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"toy"', '"toi"', "entry 1 ('a'): 99-toy has no module 'toi'; did you mean 'toy'?"),
        ('"c"', '" "', "entry 1 ('a'): why is empty"),
        ("[[equivalent]]", "[[equivalant]]", "unknown key 'equivalant'; did you mean 'equivalent'?"),
        ("why", "reason", "unknown key 'equivalent.0.reason'; the key 'equivalent.0.why' is missing"),
        ("[[equivalent]]", "[[equivalent", "is not valid TOML"),
        (
            "[[equivalent]]",
            '[[equivalent]]\nmodule = "toy"\nold = "a"\nnew = "b"\nwhy = "d"\n[[equivalent]]',
            "twice: remove one",
        ),
    ],
)
def test_an_entry_that_explains_nothing_is_named(lesson, old, new, said):
    lesson.samples.mkdir(parents=True)
    entry = '[[equivalent]]\nmodule = "toy"\nold = "a"\nnew = "b"\nwhy = "c"'
    (lesson.samples / "equivalent.toml").write_text(entry.replace(old, new))

    with pytest.raises(LessonError, match=re.escape(said)):
        explanations(lesson)


def test_idle_tests_are_found(tmp_path):
    suite = """
        import pytest, torch
        @pytest.mark.points(1)
        def test_idle(student):
            student.run(lambda_free)
        def lambda_free():
            return 1
        @pytest.mark.points(1)
        def test_works(student, check):
            check(student.call("toy.causal_mask", 2), torch.ones(2, 2, dtype=torch.bool).tril())
    """
    write_lesson(tmp_path, suite=suite)

    assert idle(load("99-toy", tmp_path)) == Idle({"toy": {"test_idle"}}, {})


def test_sentences_that_nobody_is_told_are_found(tmp_path):
    suite = """
        import pytest, torch

        def mistakes(past):
            return {"the mask is full everywhere": torch.ones_like(past), "the mask is of another world": past.float() * 3}

        def told(n):
            return f"the mask has {n} rows too many"

        @pytest.mark.points(1)
        def test_mask(student, check):
            past = torch.ones(2, 2, dtype=torch.bool).tril()
            mask = student.call("toy.causal_mask", 2)
            check(mask, past, mistakes={"the mask is transposed": past.T, **mistakes(past)})

        @pytest.mark.points(1)
        def test_rows(student, check):
            mask = student.call("toy.causal_mask", 3)
            check.that(mask.shape[0] == 3, f"the mask has {mask.shape[0]} rows")
            check.that(mask.dim() == 2, "the mask has the wrong number of dimensions")

        @pytest.mark.points(1)
        @pytest.mark.gpu
        def test_on_a_gpu(check):
            check.that(False, "the mask is not on the GPU")
    """
    write_lesson(tmp_path, suite=suite)
    lesson = load("99-toy", tmp_path)
    wrong = lesson.samples / "wrong" / "toy"
    wrong.mkdir(parents=True)
    says = 'why = "x"\nfails = ["test_mask"]\n[[change]]\n'
    (wrong / "full.toml").write_text(says + 'old = ".tril()"\nnew = ""\n')
    (wrong / "rows.toml").write_text(says + 'old = "ones(length,"\nnew = "ones(length + 1,"\n')

    found = idle(lesson)

    assert found.tests == {}, "that the mask is transposed is said of a mutant"
    assert [one.text for one in found.sentences["toy"]] == [
        "the mask is of another world",
        "the mask has the wrong number of dimensions",
    ]


def test_the_table_keeps_the_lines_of_other_modules(lesson, tmp_path):
    path = tmp_path / "proof.md"
    table = ProofTable.read(path)
    table.put(lesson, prove(lesson, "toy"))
    table.lines["98-other", "x"] = "| 98-other | x | 1 | 2 | 3 | 100.0 % | 0 | 0 |"
    table.write()

    assert ProofTable.read(path).lines == table.lines


def test_the_table_keeps_the_sections_that_follow_it(tmp_path):
    path = tmp_path / "proof.md"
    line, section = (
        "| 98-other | x | 1 | 2 | 3 | 100.0 % | 0 | 0 |",
        "\n## Bugs\n\n| 98-other | x | one bug | another |\n",
    )
    path.write_text(f"| lesson |\n|---|\n{line}\n{section}")

    table = ProofTable.read(path)
    table.lines["99-toy", "toy"] = line.replace("98-other | x", "99-toy | toy")
    table.write()

    assert list(ProofTable.read(path).lines.values()) == [line, table.lines["99-toy", "toy"]]
    assert path.read_text().endswith(section)

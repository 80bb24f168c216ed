"""stub: what is marked goes, the rest stays byte for byte, and a mark that would do nothing is refused."""

import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from autograder.author.stub import LINE_LENGTH, solution_lines, starter_text
from autograder.errors import StubError

ROOT = Path(__file__).resolve().parents[2]


def cut(source):
    return starter_text(dedent(source).removeprefix("\n"))


def text(expected):
    return dedent(expected).removeprefix("\n")


def refusal(source):
    with pytest.raises(StubError) as caught:
        starter_text(text(source), "attention.py")
    return str(caught.value)


def formatted(source):
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", str(LINE_LENGTH), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------------------------------------- marked functions


def test_a_marked_function_keeps_signature_and_docstring_and_loses_its_body():
    starter = cut('''
        def scale(x: Tensor, by: float = 2.0) -> Tensor:
            """x (B, T) -> x · by (B, T)."""
            # student: multiply
            y = x * by
            return y
    ''')

    assert starter == text('''
        def scale(x: Tensor, by: float = 2.0) -> Tensor:
            """x (B, T) -> x · by (B, T)."""
            # TODO(student): multiply
            raise NotImplementedError("scale is not implemented yet")
    ''')


def test_all_else_stays_byte_for_byte():
    before = '#!/usr/bin/env python\n"""Masks."""\n\n\n\nimport   torch # odd spacing\nA=[1,\n  2 , ]  \n\n# about f\n'
    after = "\n\n\n\n# about B\nB = '''\n  text \n'''\nif A :\n  B=3\n\n# the end\n"

    starter = starter_text(f"{before}def f( x ) :\n    # student: go\n    return x{after}")

    todo = '    # TODO(student): go\n    raise NotImplementedError("f is not implemented yet")'
    assert starter == f"{before}def f( x ) :\n{todo}{after}"


def test_a_function_without_a_docstring_keeps_only_the_hint():
    starter = cut("""
        def f(x):
            # student: return x
            return x
    """)

    assert starter == text("""
        def f(x):
            # TODO(student): return x
            raise NotImplementedError("f is not implemented yet")
    """)


def test_comments_inside_a_cut_body_go_wherever_they_stand():
    starter = cut('''
        def f(x):
            # secret before the docstring
            """Words."""  # secret beside it
            # student: go
            # secret behind it
            return x  # secret
            # secret at the end

        # not inside
        y = 1
    ''')

    assert "secret" not in starter
    assert "# not inside\ny = 1\n" in starter


def test_a_docstring_of_many_lines_stays_as_it_was_written():
    docstring = '    r"""The mean.\n\n        Σ x / n  \n\n    Source: nobody.\n    """\n'

    starter = starter_text(f"def f(x):\n{docstring}\n    # student: go\n\n    return x\n")

    assert starter.startswith(f"def f(x):\n{docstring}    # TODO(student): go\n")


@pytest.mark.parametrize("no_docstring", ['f"mean of {x}"', 'b"mean"', '"mean".strip()', "..."])
def test_what_only_looks_like_a_docstring_goes(no_docstring):
    starter = starter_text(f"def f(x):\n    # student: go\n    {no_docstring}\n    return x\n")

    assert no_docstring not in starter


def test_a_docstring_that_shares_its_line_keeps_the_docstring_only():
    starter = starter_text('def f(x):\n    "Words."; y = x\n    # student: go\n    return y\n')

    assert '    "Words."\n    # TODO' in starter
    assert "return" not in starter


def test_the_mark_stands_below_a_signature_of_many_lines():
    starter = cut("""
        def attend(
            q: Tensor,  # (B, T, D)
            *,
            mask: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]:
            # student: softmax(q kᵀ) v
            return q
    """)

    assert starter == text("""
        def attend(
            q: Tensor,  # (B, T, D)
            *,
            mask: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]:
            # TODO(student): softmax(q kᵀ) v
            raise NotImplementedError("attend is not implemented yet")
    """)


@pytest.mark.parametrize("decorator", ["@staticmethod", "@classmethod", "@property", "@torch.no_grad()  # fast"])
def test_decorators_stay(decorator):
    starter = cut(f"""
        class Model:
            {decorator}
            # about size
            def size(self):
                # student: count
                return 1
    """)

    assert f"    {decorator}\n    # about size\n    def size(self):\n        # TODO" in starter


def test_getter_and_setter_are_cut_each_for_itself():
    starter = cut("""
        class Model:
            @property
            def size(self):
                return self._size

            @size.setter
            def size(self, value):
                # student: store it
                self._size = value
    """)

    assert "return self._size" in starter
    assert "self._size = value" not in starter


def test_overloads_stay_and_the_implementation_is_cut():
    overloads = "@overload\ndef f(x: int) -> int: ...\n@overload\ndef f(x: str) -> str: ...\n"

    starter = starter_text(f"{overloads}def f(x):\n    # student: give x back\n    return x\n")

    assert starter.startswith(f"{overloads}def f(x):\n    # TODO(student): give x back\n")


def test_an_async_function_stays_async():
    starter = cut("""
        async def fetch(x):
            # student: await it
            return await x
    """)

    assert starter.startswith("async def fetch(x):\n    # TODO(student): await it\n    raise")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f():\n    # student: go\n    pass\n", "f"),
        ("class A:\n    def __init__(self):\n        # student: go\n        pass\n", "A.__init__"),
        ("class A:\n    class B:\n        def f(self):\n            # student: go\n            pass\n", "A.B.f"),
        ("def f():\n    def g():\n        # student: go\n        pass\n", "g"),
        ("def f():\n    class A:\n        def g():\n            # student: go\n            pass\n", "A.g"),
        ("class A:\n    def f():\n        def g():\n            # student: go\n            pass\n", "g"),
        ("if True:\n    def f():\n        # student: go\n        pass\n", "f"),
    ],
)
def test_a_method_is_named_with_its_class(source, name):
    assert f'raise NotImplementedError("{name} is not implemented yet")' in starter_text(source)


def test_a_function_inside_an_unmarked_one_is_cut_in_its_place():
    starter = cut("""
        def outer(x):
            def inner(y):
                # student: go
                return y

            return inner(x)
    """)

    assert starter == text("""
        def outer(x):
            def inner(y):
                # TODO(student): go
                raise NotImplementedError("inner is not implemented yet")

            return inner(x)
    """)


@pytest.mark.parametrize("indent", ["\t", "  ", "        "])
def test_the_file_s_own_indentation_is_used(indent):
    starter = starter_text(f"class A:\n{indent}def f(self):\n{indent}{indent}# student: go\n{indent}{indent}return 1\n")

    assert starter == (
        f"class A:\n{indent}def f(self):\n{indent}{indent}# TODO(student): go\n"
        f'{indent}{indent}raise NotImplementedError("A.f is not implemented yet")\n'
    )


def test_a_block_that_is_indented_unlike_the_others_stays_so():
    starter = starter_text("if x:\n    y = 1\n\n\ndef f():\n  # student: go\n  return 1\n")

    assert starter.endswith(
        'def f():\n  # TODO(student): go\n  raise NotImplementedError("f is not implemented yet")\n'
    )


def test_the_line_ends_of_windows_stay():
    name = "f" * 100
    source = (
        f'"""Words."""\n\n\ndef {name}(x):\n    """More\n    words."""\n    # student: go\n    return x\n\n\ny = 1\n'
    )

    starter = starter_text(source.replace("\n", "\r\n"))

    assert starter == starter_text(source).replace("\n", "\r\n")


def test_the_starter_ends_with_a_newline_where_the_solution_does_not():
    assert starter_text("def f():\n    # student: go\n    return 1").endswith(' yet")\n')
    assert starter_text("def f():\n    # student: go\n    return 1\nx = 1").endswith("\nx = 1\n")


def test_a_mark_in_a_string_is_text():
    starter = cut('''
        HELP = """
        def f():
            # student: hint
        """
        NOTE = "x = 1  # solution only"


        def f(text="# student: a"):
            # student: say "why", and how
            return text
    ''')

    assert "def f():\n    # student: hint\n" in starter
    assert 'NOTE = "x = 1  # solution only"\n' in starter
    assert 'def f(text="# student: a"):\n    # TODO(student): say "why", and how\n' in starter


def test_ordinary_comments_may_speak_of_students_and_solutions():
    comments = "# student model and teacher model\nx = 1  # students know this\ny = 2  # the solution\n"

    assert starter_text(f"{comments}def f():\n    # student: go\n    pass\n").startswith(comments)


def test_imports_that_only_the_cut_body_used_stay():
    starter = cut("""
        import math


        def f(x):
            # student: go
            return math.sqrt(x)
    """)

    assert starter.startswith("import math\n")


# ---------------------------------------------------------------------------------------------- solution only


def test_a_helper_goes_with_its_decorators_and_the_comments_that_touch_it():
    starter = cut("""
        x = 1

        # a section

        # about the helper,
        # in two lines
        @cache
        # between
        def helper(x):  # solution only
            return x


        def f(x):
            # student: go
            return helper(x)
    """)

    assert starter == text("""
        x = 1

        # a section


        def f(x):
            # TODO(student): go
            raise NotImplementedError("f is not implemented yet")
    """)


def test_the_comments_at_the_top_of_a_file_stay_when_its_first_statement_goes():
    assert (
        starter_text("# A licence.\n\n# about a\nimport a  # solution only\nimport b\n") == "# A licence.\n\nimport b\n"
    )


def test_a_class_may_be_for_the_solution_only():
    starter = cut("""
        class Helper(Base):  # solution only
            def f(self):
                return 1


        x = 1
    """)

    assert starter == "x = 1\n"


def test_a_marked_import_or_assignment_goes_alone():
    starter = cut("""
        import math
        import torch  # solution only
        from os import (
            path,
        )  # solution only

        EPS = 1e-5  # solution only
        SIZE = 3
    """)

    assert starter == "import math\n\nSIZE = 3\n"


def test_a_block_that_loses_everything_is_left_valid():
    starter = cut('''
        class Empty:
            def f(self):  # solution only
                return 1


        class Words:
            """What it was."""

            def f(self):  # solution only
                return 1


        try:
            import triton  # solution only
        except ImportError:
            import torch  # solution only
    ''')

    assert starter == text('''
        class Empty:
            pass


        class Words:
            """What it was."""


        try:
            pass
        except ImportError:
            pass
    ''')


def test_a_comment_that_does_not_touch_a_removed_last_method_stays():
    starter = cut("""
        class A:
            x = 1

            # a section

            # about f
            def f(self):  # solution only
                return 1


        y = 1
    """)

    assert starter == text("""
        class A:
            x = 1

            # a section


        y = 1
    """)


# ---------------------------------------------------------------------------------------------- the look

LONG = "one long hint that says what to write, " * 2

FORMATTED = {
    "first of a class goes": """
        class A:
            def f(self):  # solution only
                return 1

            def g(self):
                return 1
    """,
    "first of a branch goes": """
        if torch.cuda.is_available():
            import triton  # solution only

            def f(x):
                # student: go
                return x
    """,
    "a definition goes between docstring and constant": '''
        """Words."""


        def f(x):  # solution only
            return x


        SIZE = 1
    ''',
    "an import goes between docstring and function": '''
        """Words."""

        import math  # solution only


        def f(x):
            # student: go
            return math.sqrt(x)
    ''',
    "several in a row go": """
        import math


        def f(x):  # solution only
            return x


        class A:  # solution only
            pass


        SIZE = 1
    """,
    "a message is too long for its line": f"""
        class {"A" * 50}:
            def {"f" * 40}(self):
                # student: go
                return 1
    """,
    "a hint is long": f"""
        def f(x: Tensor) -> dict[str, Tensor]:
            # student: {LONG}, and more
            return x


        def g() -> Tensor:
            # student: {LONG}, and more
            return 1


        def h(
            x: Tensor,  # (B, T)
        ) -> Tensor:
            # student: {LONG}
            return x
    """,
    "a signature is too long for its line": f"""
        def f(x: Tensor, {"name" * 20}: Tensor, y: Tensor = 1) -> Tensor:
            # student: {LONG}
            return x
    """,
}


@pytest.mark.parametrize("source", FORMATTED.values(), ids=FORMATTED.keys())
def test_a_formatted_solution_gives_a_formatted_starter(source):
    starter = starter_text(formatted(text(source)))

    assert formatted(starter) == starter


@pytest.mark.parametrize(
    "returns", ["tuple[\n    Tensor,\n]", "(\n    Tensor, Tensor\n)", "list[\n    Tensor  # (B,)\n]"]
)
def test_a_signature_that_its_author_broke_stays_broken(returns):
    signature = f"def f(\n    x: Tensor,\n) -> {returns}:"

    assert starter_text(f"{signature}\n    # student: go\n    return x\n").startswith(f"{signature}\n")


def test_lines_are_as_long_as_in_the_repository():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"] == LINE_LENGTH


# ---------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "no hint": ("def f():\n    # student:\n    pass\n", 2, "the mark has no hint"),
    "no colon": ("x = 1\ndef f():\n    # student go\n    pass\n", 3, "'# student go' is not a mark"),
    "no space": ("def f():\n    #student: go\n    pass\n", 2, "'#student: go' is not a mark"),
    "misspelt": ("def f():\n    # stduent: go\n    pass\n", 2, "'# stduent: go' is not a mark"),
    "capital": ("def f():\n    # Student: go\n    pass\n", 2, "'# Student: go' is not a mark"),
    "more than solution only": ("x = 1  # solution only, sorry\n", 1, "is not a mark"),
    "hyphen": ("x = 1  # solution-only\n", 1, "'# solution-only' is not a mark"),
    "behind another comment": ("def f():\n    # noqa  # student: go\n    pass\n", 2, "is not a mark"),
    "before another comment": ("def f():\n    # student: go  # noqa\n    pass\n", 2, "shares its line with a comment"),
    "student in a class": ("class A:\n    # student: go\n    pass\n", 2, "'# student: go' marks nothing here"),
    "student on a statement": ("x = 1\ny = 1  # student: go\n", 2, "marks nothing here"),
    "above the function": ("# student: go\ndef f():\n    pass\n", 1, "marks nothing here"),
    "above the docstring": ("def f():\n    # student: go\n    'Words.'\n    pass\n", 2, "marks nothing here"),
    "below the first statement": ("def f():\n    x = 1\n    # student: go\n    pass\n", 3, "marks nothing here"),
    "twice": ("def f():\n    # student: go\n    # student: on\n    pass\n", 3, "marks nothing here"),
    "on the signature": ("def f():  # student: go\n    pass\n", 1, "marks nothing here"),
    "inside the signature": ("def f(  # student: go\n    x,\n):\n    pass\n", 1, "marks nothing here"),
    "on a function of one line": ("def f(x): return x  # student: go\n", 1, "marks nothing here"),
    "on a decorator": ("@cache  # student: go\ndef f():\n    pass\n", 1, "marks nothing here"),
    "on the body": ("def f():\n    return 1  # student: go\n", 2, "marks nothing here"),
    "solution only on an if": ("if x:  # solution only\n    pass\n", 1, "marks nothing here"),
    "solution only inside brackets": ("x = [\n    1,  # solution only\n]\n", 2, "marks nothing here"),
    "commented out": ("# def f():  # student: go\n#     pass\n", 1, "marks nothing here"),
    "student in student": (
        "def f():\n    # student: go\n    def g():\n        # student: go\n        pass\n",
        4,
        "this mark is inside f (line 1), which is marked itself",
    ),
    "solution only in student": (
        "class A:\n    def f():\n        # student: go\n        x = 1  # solution only\n",
        4,
        "this mark is inside f (line 2), which is marked itself",
    ),
    "student in solution only": (
        "@cache\nclass A:  # solution only\n    def f():\n        # student: go\n        pass\n",
        4,
        "this mark is inside A (line 2), which is marked itself",
    ),
    "misspelt in a block": (
        "def f():\n    if 1:\n        # studnet: go\n        pass\n",
        3,
        "'# studnet: go' is not a mark",
    ),
    "misspelt on the body": ("def f():\n    return 1  # studet: go\n", 2, "'# studet: go' is not a mark"),
    "misspelt above the docstring": ("def f():\n    # studnet: go\n    'Words.'\n    pass\n", 2, "is not a mark"),
    "misspelt in a class": ("class A:\n    'Words.'\n    # sudent: go\n    x = 1\n", 3, "is not a mark"),
    "misspelt without a colon": ("def f():\n    x = 1\n    # studnet go\n    return x\n", 3, "is not a mark"),
    "space before the colon": ("def f():\n    #student : go\n    pass\n", 2, "'#student : go' is not a mark"),
    "another colon": ("def f():\n    x = 1\n    # student：go\n    return x\n", 3, "is not a mark"),
    "a dash": ("def f():\n    x = 1\n    # student - go\n    return x\n", 3, "is not a mark"),
    "a hard space": ("def f():\n    #\xa0student: go\n    pass\n", 2, "is not a mark"),
    "two signs": ("def f():\n    x = 1\n    ## student: go\n    return x\n", 3, "is not a mark"),
    "a colon before": ("def f():\n    x = 1\n    #: student: go\n    return x\n", 3, "is not a mark"),
    "plural": ("x = 1  # solutions only\n", 1, "'# solutions only' is not a mark"),
    "misspelt solution only": ("import a  # soluton olny\n", 1, "'# soluton olny' is not a mark"),
    "solution only, underscored": ("def f():  # solution_only\n    pass\n", 1, "is not a mark"),
    "solution only on its own line": ("# Solution only\ndef f():\n    pass\n", 1, "'# Solution only' is not a mark"),
    "solution with a colon": ("# solution: go\ndef f():\n    pass\n", 1, "'# solution: go' is not a mark"),
    "the TODO of a starter": ("def f():\n    x = 1\n    # TODO(student): go\n    return x\n", 3, "is not a mark"),
    "in the docstring": (
        "def f():\n    '''Words.\n\n    # student: go\n    '''\n    pass\n",
        1,
        "is inside the docstring of f",
    ),
    "misspelt in the docstring": (
        "def f():\n    '''Words.\n\n    # studnet: go\n    '''\n",
        1,
        "is inside the docstring of f",
    ),
    "no Python": ("def f():\n    # student: go\n    return (\n", 3, "is not valid Python"),
    "no Python, by the compiler's rules": ("x = 1\nreturn x\n", 2, "is not valid Python"),
}


@pytest.mark.parametrize(("source", "line", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mark_that_would_do_nothing_is_refused_with_file_and_line(source, line, sentence):
    message = refusal(source)

    assert message.startswith(f"attention.py:{line}: ")
    assert sentence in message


def test_a_solution_without_a_mark_is_refused():
    assert refusal("def f():\n    return 1\n").startswith("attention.py: no function is marked")


@pytest.mark.parametrize("character", ["\0", "\ud800", "\ufeff"])
def test_a_character_that_no_source_may_hold_is_refused(character):
    assert "is not valid Python" in refusal(f"{character}def f():\n    # student: go\n    return 1\n")


def test_a_starter_that_would_not_compile_is_refused():
    message = refusal("""
        def f():
            count = 0  # solution only

            def g():
                nonlocal count
    """)

    assert "the starter would not compile: no binding for nonlocal 'count' found, at 'nonlocal count'" in message


def test_every_refusal_says_what_to_do():
    messages = [refusal(source) for source, _, _ in REFUSED.values()]

    verbs = ("Say", "Write", "Put", "Move", "belongs", "Remove", "Correct")
    assert [message for message in messages if not any(verb in message for verb in verbs)] == []


# ---------------------------------------------------------------------------------------------- lines of the solution


def test_the_lines_of_a_solution_are_those_that_the_starter_does_not_show():
    source = text('''
        """Words of the module."""

        import torch
        import triton  # solution only


        def attend(q, k):
            """q and k (T, D): scores = q @ k.T"""
            # student: see (1)
            # a comment of the solution
            scores = q @ k.T
            best = scores.softmax(-1)  # (T, T)
            return best


        def _helper(q):  # solution only
            """Words of the helper."""
            return torch.relu(q)
    ''')

    assert solution_lines(source) == {
        "import triton",
        "best = scores.softmax(-1)",
        "def _helper(q):",
        "return torch.relu(q)",
    }


def test_boilerplate_is_no_line_of_a_solution():
    body = "        super().__init__()\n        return x\n"

    assert solution_lines(f"class A:\n    def __init__(self):\n        # student: go\n{body}") == set()


def test_a_string_in_a_solution_s_code_is_code():
    assert solution_lines('def f():\n    # student: go\n    return "# not a comment"\n') == {'return "# not a comment"'}

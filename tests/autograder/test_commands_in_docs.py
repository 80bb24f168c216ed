"""What the pages tell one to type exists: verbs, options, lessons, tests, formats."""

import ast
import re
import shlex

import pytest
import typer
from conftest import ROOT, all_lessons

from autograder import cli
from autograder.errors import UsageError
from autograder.exports import FORMATS
from autograder.lesson import load

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(cli.app).commands
ARGUMENTS_ARE_LESSONS = {"starter", "handouts", "zips", "rehearse", "mutants", "costs", "flaky", "idle", "messages"}


def commands_in(text: str) -> list[list[str]]:
    """The words after `autograder` in each line of code, and in each piece of code within a line."""
    lines = re.findall(r"^(?: {4}|\.venv/|(?=autograder ))(.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    found = [re.match(r"(?:\S*bin/)?autograder ([a-z-]+.*)|((?!written )[a-z-]+ .*)", line.strip()) for line in lines]
    raw = [match[1] or match[2] for match in found if match]
    return [shlex.split(re.split(r" [>|#] | {2,}|#", line)[0]) for line in raw if line.split()[0] in COMMANDS]


def new_lessons(commands):
    return {words[1] for words in commands if words[0] == "new-lesson" and len(words) > 1}


def problems_of(words: list[str], made: set[str]) -> list[str]:
    """What of a command does not exist."""
    command = COMMANDS[words[0]]
    if hasattr(command, "commands"):  # a group, such as `written`
        if words[1:2] and words[1] not in command.commands:
            return [f"{words[0]} has no command {words[1]}"]
        command, words = (command.commands[words[1]], words[1:]) if words[1:] else (command, words)
    flags = {flag: option for option in command.params for flag in option.opts if flag.startswith("-")}
    problems, lessons = [], []
    given = iter(words[1:])
    for word in given:
        if not word.startswith("-"):
            lessons += [word] if words[0] in ARGUMENTS_ARE_LESSONS else []
        elif word not in flags:
            problems.append(f"{words[0]} has no option {word}")
        elif not flags[word].is_flag:
            value = next(given, "")
            lessons += [value] if word == "--lesson" else []
            if word == "--format" and value not in FORMATS:
                problems.append(f"there is no format {value}")
            if word == "--test" and value not in hidden_tests() and value != "NAME" and not made:
                problems.append(f"there is no test {value}")
    return problems + [f"there is no lesson {name}" for name in lessons if not is_lesson(name, made)]


def is_lesson(name, made):
    try:
        return name in made or name.isupper() or bool(load(name, ROOT))
    except UsageError:
        return False


def hidden_tests() -> set[str]:
    paths = [path for lesson in all_lessons() for module in lesson.modules for path in lesson.hidden_tests(module)]
    return {
        node.name for path in paths for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page):
    commands = commands_in(page.read_text("utf-8"))
    made = new_lessons(commands)

    assert [problem for words in commands for problem in problems_of(words, made)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_lesson_that_is_given_to_make_exists(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"LESSON=(\d\S*?)[`\s.]", text + "\n"))

    assert [name for name in named if not is_lesson(name, new_lessons(commands_in(text)))] == []


def test_the_commands_of_readme_are_found():
    verbs = [words[0] for words in commands_in((ROOT / "README.md").read_text("utf-8"))]

    assert {"grade", "replay", "export"} <= set(verbs)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (".venv/bin/autograder grade x --lessn 01-attention --out y", "grade has no option --lessn"),
        (".venv/bin/autograder grade x --lesson 77-none --out y", "there is no lesson 77-none"),
        (".venv/bin/autograder replay x --test test_nothing", "there is no test test_nothing"),
        (".venv/bin/autograder export x --format xml > y", "there is no format xml"),
        ("autograder written exprot x --lesson 01-attention", "written has no command exprot"),
        ("autograder written import x --result y", "import has no option --result"),
        ("    autograder mutants 77-none", "there is no lesson 77-none"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, problem):
    (words,) = commands_in(line)

    assert problems_of(words, set()) == [problem]

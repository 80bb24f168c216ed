"""The border of trust. Theory of operation: four kinds of process.

    grader     pytest, hidden tests, expected values, verdicts. Never imports or unpickles anything of a student's.
    zygote     one for each grader, started once with torch imported. Trusted, holds no secret: workers can read its memory.
               Forks, watches and kills slots.
    worker     one for each slot: a fork of the zygote, confined before it reads a byte of the student's. Imports the
               student's modules once.
    test       one for each test: a fork of the worker, which answers the requests of that test's cases and ends.

Between them go messages of plain data and tensors (wire, codec), never objects. docs/architecture.md says of each file here
in which process it runs, and what a slot, a session, a team, a post are.

What the box does not do: say what is right. That is for the tests (../plugin.py, ../check.py).
"""

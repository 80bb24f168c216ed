"""The border of trust. Theory of operation: four kinds of process, and which files each of them runs.

    grader     pytest, hidden tests, expected values, verdicts. Never imports or unpickles anything of a student's.
               seam: what a test asks. session, budget: a submission's processes and time. choose, sandbox, slot, policy,
               boxed, replies, clock, caps; ranks/ for a test that asks for ranks; unconfined and local without a fork
    zygote     one for each grader, started once with torch imported. Trusted, holds no secret: workers can read its memory.
               Forks, watches and kills slots. zygote/, cpu
    worker     one for each slot: a fork of the zygote, confined before it reads a byte of the student's. Imports the
               student's modules once. inside/worker, with the tripwires of inside/
    test       one for each test: a fork of the worker, which answers the requests of that test's cases and ends.
               inside/worker; inside/group where it is one of several ranks

Between them go messages of plain data and tensors (wire, codec), never objects. A slot is one submission in the box: its
copy of the files, its scratch folder, its user, its worker. A session is one submission while it is graded: its slots, one,
or one for each rank. A team is the ranks of one test; a post is a message between them.

What the box does not do: say what is right. That is for the tests (../plugin.py, ../check.py).
"""

"""nbgrader's edge: a course folder for its plain commands, and what of ours runs in them. Theory of operation.

    handout.md ──cells.py──▶ cells ──lab.py──▶ lab.ipynb            one a lesson; nothing is written twice
    lab.py ──exercises.py──▶ its cells, and a module of its solution cells; lab.py makes LLM_Interactive_Lab.ipynb of them
    lessons ──course.py──▶ course/source/<lesson>/                  the lab, stubs, public tests, grading/
    nbgrader generate_assignment                                    nbgrader's own; takes out rubrics and a lab's solutions
    nbgrader autograde        restore.py   the submission's cells are put right before nbgrader looks at them
                              execute.py   the notebook runs in a confined kernel (kernel.py), which may do what it likes
                              boxed.py     the modules, and a lab's solution cells as one, are graded in the box; points are these and nothing else
    nbgrader generate_feedback   feedback.py   rubrics stay with those who grade
    nbgrader export              export.py     gradebook and scorecards -> one scorecard a student

settings.py tells nbgrader all of this. nbgrader's process is the grader: it never imports student code. What it reads of a
student's is JSON (the notebook) and text. Three processes of a notebook have something of a student in them:

    kernel       its own user where nbgrader's is root, Landlock, seccomp without sockets once it listens, a copy of the
                 student's files in a folder that goes; it cannot reach the course folder
    keeper       kernel.py's other half, not confined: ends what the kernel started, and removes its folder
    box          as in every grading

Modules of this folder are imported by `autograder course`, by nbgrader through the course's nbgrader_config.py, and by tests.
"""

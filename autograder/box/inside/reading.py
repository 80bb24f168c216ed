"""One file's source, read: what its names and expressions stand for. A part of scan.py, with which it runs as one text."""

import ast
import warnings
from itertools import product
from typing import Any

_DEEPEST = 40  # parts of an expression
_MOST_PATHS = 200  # that one name may stand for
_MOST_TEXTS = 16  # that one expression may stand for
_BUILTINS = frozenset("getattr vars globals locals exec eval compile object __import__".split())
_GETATTR = {"builtins.getattr", "inspect.getattr_static"}
_IMPORT = {"builtins.__import__", "importlib.__import__", "importlib.import_module"}
_LOCATE = {"pkgutil.resolve_name", "pydoc.locate"}
_GETTER = {"operator.attrgetter", "operator.methodcaller"}
_OF_A_DICT = {"get", "pop", "setdefault", "__getitem__"}


class Tangled(Exception):
    """A name of this file stands for too much: it is not scanned."""


def parsed(content):
    """As an import would: bytes have a mark of their encoding, or a comment that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would be among what the student's code printed
        return ast.parse(content.removeprefix("\ufeff") if isinstance(content, str) else content)


class Names:
    """Knows what names stand for: alias, name -> paths (`F` -> "torch.nn.functional")."""

    def __init__(self, name, tree, project):
        self.name, self.project = name, project
        parts = name.removesuffix(".py").split("/")
        self._package = parts[:-1]
        self.module = "." + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.alias = {}
        self._texts_of, self._stars, self._bound = {}, set(), set()
        self.known, self._depth = None, 0
        self.nodes: list[Any] = list(ast.walk(tree))
        for node in tree.body:  # what hides a name of a star import
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                self._bound.add(node.name)
            elif isinstance(node, ast.Assign):
                self._bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def named(self, name):
        """What a name at the top stands for."""
        found = set(self.alias.get(name, ()))
        if name not in self._bound:
            found |= {f"{star}.{name}" for star in self._stars}
        return found

    # ------------------------------------------------------------------------------------------ what names stand for

    def learn(self):
        """One round: what is known of names by now tells more of others."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for item in node.names:
                    path = item.name if item.asname else item.name.split(".")[0]
                    self._stands_for(item.asname or path, self.project.absolute(path))
            elif isinstance(node, ast.ImportFrom):
                for base in self.bases(node):
                    for item in node.names:
                        if item.name == "*":
                            self._stars.add(base)
                        else:
                            self._stands_for(item.asname or item.name, {join(base, item.name)})
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assign(target, node.value)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                self._assign(node.target, node.value)
            elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, (ast.List, ast.Tuple)):
                for element in node.iter.elts:
                    self._assign(node.target, element)
            elif isinstance(node, ast.arguments):
                named = [*node.posonlyargs, *node.args]
                self._defaults(named[len(named) - len(node.defaults) :], node.defaults)
                self._defaults(node.kwonlyargs, node.kw_defaults)

    def _defaults(self, arguments, values):
        for argument, value in zip(arguments, values, strict=True):
            self._assign(ast.Name(argument.arg), value)

    def bases(self, node):
        """The paths of what `from … import` names."""
        if not node.level:
            return self.project.absolute(node.module)
        folder = self._package[: len(self._package) - node.level + 1]
        return {"." + ".".join([*folder, *filter(None, [node.module])])}

    def _assign(self, target, value):
        if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (ast.Tuple, ast.List)):
            for each, part in zip(target.elts, value.elts, strict=False):  # one of them may have a star
                self._assign(each, part)
        elif isinstance(target, (ast.Name, ast.Attribute)) and value is not None:  # self.F = F: by its last part
            name = target.id if isinstance(target, ast.Name) else target.attr
            self._stands_for(name, self.paths(value))
            texts = self.texts(value)
            if texts:
                self._texts_of.setdefault(name, set()).update(texts)

    def _stands_for(self, name, paths):
        if paths:
            known = self.alias.setdefault(name, set())
            known.update(paths)
            if len(known) > _MOST_PATHS:
                raise Tangled(self.name)

    # ------------------------------------------------------------------------------------------ what expressions are

    def paths(self, node):
        """The dotted names that an expression may stand for: what starts with no import is the student's own."""
        if self.known is not None and node in self.known:
            return self.known[node]
        if self._depth > _DEEPEST:
            return set()
        self._depth += 1
        found = self._paths_of(node)
        self._depth -= 1
        if self.known is not None:
            self.known[node] = found
        return found

    def _paths_of(self, node):
        if isinstance(node, ast.Name):
            found = self.named(node.id)
            builtin = node.id in _BUILTINS and not found and node.id not in self._bound
            return {f"builtins.{node.id}"} if builtin else self.project.expanded(found)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._result(node)
        if isinstance(node, ast.Subscript):
            return self._item(node.value, node.slice)
        if isinstance(node, ast.NamedExpr):
            return self.paths(node.value)
        if isinstance(node, ast.IfExp):
            return self.paths(node.body) | self.paths(node.orelse)
        if isinstance(node, ast.BoolOp):
            return set().union(*map(self.paths, node.values))
        return set()

    def _attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            return self.project.expanded(self.alias.get(node.attr, set()))
        return self._join(self.paths(node.value), {node.attr})

    def _join(self, paths, names):
        return self.project.expanded({join(path, name) for path in paths for name in names})

    def _item(self, container, key):
        """`vars(F)["…"]`, `F.__dict__["…"]`, `sys.modules["…"]`, `globals()["…"]`."""
        names = self.texts(key)
        if "sys.modules" in self.paths(container):
            return names
        if isinstance(container, ast.Call) and self.paths(container.func) & {"builtins.globals", "builtins.locals"}:
            return self.project.expanded(set().union(*map(self.named, names)))
        return self._join(self._namespace(container), names)

    def _namespace(self, node):
        """The modules in `vars(F)` or `F.__dict__`."""
        if isinstance(node, ast.Call) and node.args and "builtins.vars" in self.paths(node.func):
            return self.paths(node.args[0])
        return self.paths(node.value) if isinstance(node, ast.Attribute) and node.attr == "__dict__" else set()

    def _result(self, node):
        """What a call gives, where it is one that looks up a name."""
        function, arguments = self.paths(node.func), node.args
        if not arguments:
            return set()
        if function & _GETATTR and len(arguments) > 1:
            return self._join(self.paths(arguments[0]), self.texts(arguments[1]))
        if function & _GETTER:
            return {f"@{text}" for argument in arguments for text in self.texts(argument)}
        if any(path.startswith("@") for path in function):
            return self._join(self.paths(arguments[0]), {path[1:] for path in function if path.startswith("@")})
        if function & _IMPORT:
            return self._imported_by(arguments)
        if function & _LOCATE:
            return {text.replace(":", ".") for text in self.texts(arguments[0])}
        if "functools.reduce" in function and len(arguments) == 3 and self.paths(arguments[0]) & _GETATTR:
            return self._join(self.paths(arguments[2]), self._parts(arguments[1]))
        if isinstance(node.func, ast.Attribute):
            return self._result_of_a_method(node.func, arguments)
        return set()

    def _imported_by(self, arguments):
        package = self.texts(arguments[1]) if len(arguments) > 1 else set()
        found = set()
        for text in self.texts(arguments[0]):
            relative = text.startswith(".")
            found |= {name + text for name in package} if relative else {text, text.split(".")[0]}
        return set().union(*map(self.project.absolute, found))

    def _result_of_a_method(self, method, arguments):
        if method.attr == "__getattribute__":
            owner = arguments[0] if len(arguments) > 1 else method.value
            return self._join(self.paths(owner), self.texts(arguments[-1]))
        return self._item(method.value, arguments[0]) if method.attr in _OF_A_DICT else set()

    def _parts(self, node):
        """ "a.b" of ["a", "b"] and of "a.b".split(".")."""
        if isinstance(node, (ast.List, ast.Tuple)):
            return {".".join(texts) for texts in _choices([self.texts(item) for item in node.elts])}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
            return self.texts(node.func.value)
        return set()

    def texts(self, node, depth=0):
        """The strings that an expression may be, if they are known without running it: "a" + "b" too."""
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str) else set()
        if isinstance(node, ast.Name):
            return self._texts_of.get(node.id, set())
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and depth < _DEEPEST:
            sides = [self.texts(node.left, depth + 1), self.texts(node.right, depth + 1)]
            return {"".join(texts) for texts in _choices(sides)}
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
            return {"".join(texts) for texts in _choices([self.texts(part, depth + 1) for part in parts])}
        return set()


def join(base, name):
    return f"{base}{name}" if base == "." else f"{base}.{name}"


def _choices(sets):
    """Each way to take one of every set; none where there are too many."""
    count = 1
    for each in sets:
        count *= len(each)
    return product(*sets) if 0 < count <= _MOST_TEXTS else ()

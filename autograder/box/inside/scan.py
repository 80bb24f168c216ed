"""Finds forbidden names in source text. Runs inside the box, before any student code does; the standard library only.

A name is forbidden with all below it: "transformers" covers `transformers.GPT2Model`. torch has its functions under several
names, and operators that compute the same (RELATIVES): each of them is a use. Names are followed through imports, star
imports, aliases, assignments of modules, constant texts (getattr, attrgetter, import_module, `vars(F)[…]`, exec), and from
one file of the submission to another. A comment, a string or a function of one's own with the same name is not a use.

A name can stand for several things, one in each scope: it is a use where one of them is. What is put together at run time
cannot be followed; tripwires.py notes the call.
"""

import ast
import warnings
from itertools import product

MOST_LINES = 10  # told of one name in one file
_DEEPEST = 40  # parts of an expression
_MOST_PATHS = 200  # that one name may stand for
_MOST_TEXTS = 16  # that one expression may stand for
_ROUNDS = 4  # until names that stand for names are known

_MULTI_HEAD = ("_native_multi_head_attention", "_triton_multi_head_attention", "_transformer_encoder_layer_fwd")
_FUSED = (
    "_scaled_dot_product_attention_math", "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_fused_attention_overrideable_backward",
    "_cudnn_attention_forward", "_cudnn_attention_backward", "_efficient_attention_forward",
    "_efficient_attention_backward", "_flash_attention_forward", "_flash_attention_backward",
    "_flash_attention_forward_no_dropout_inplace", "_triton_scaled_dot_attention", "flex_attention", "_varlen_attn",
)  # fmt: skip
RELATIVES = {  # name -> the last parts of torch's other names for what it does; the nearest name comes first
    "torch.nn.functional.multi_head_attention_forward": _MULTI_HEAD,
    "torch.nn.MultiheadAttention": ("TransformerEncoderLayer", "TransformerDecoderLayer", "Transformer"),
    "torch.nn.functional.scaled_dot_product_attention": (*_FUSED, *_MULTI_HEAD),
}
_BUILTINS = frozenset("getattr vars globals locals exec eval compile object __import__".split())
_GETATTR = {"builtins.getattr", "inspect.getattr_static"}
_IMPORT = {"builtins.__import__", "importlib.__import__", "importlib.import_module"}
_LOCATE = {"pkgutil.resolve_name", "pydoc.locate"}
_GETTER = {"operator.attrgetter", "operator.methodcaller"}
_RUNS_TEXT = {"builtins.exec", "builtins.eval", "builtins.compile", "torch.jit.CompilationUnit"}
_OF_A_DICT = {"get", "pop", "setdefault", "__getitem__"}


class Tangled(Exception):
    """A name of this file stands for too much: it is not scanned."""


def last_parts(forbidden: list) -> dict:
    """Last part of one of torch's names -> the forbidden name that it stands for: a relative belongs to one of them only."""
    parts = {name.rsplit(".", 1)[-1]: name for name in forbidden if name.startswith("torch.")}
    for name, relatives in RELATIVES.items():
        for part in relatives if name in forbidden else ():
            parts.setdefault(part, name)
    return parts


def find(files: dict, forbidden: list) -> list:
    """[file, line, name] of each use, in the order of the files."""
    names, report = sorted(files), look(files, forbidden)
    return [
        [names[place], line, forbidden[which]]
        for place, uses in sorted(report["uses"].items())
        for line, which in sorted((line, which) for which, lines in uses.items() for line in lines)
    ]


def look(files: dict, forbidden: list) -> dict:
    """What is in the files, by their places in sorted(files) and those of names in `forbidden`: short, for the wire.

    Returns: "uses": file -> name -> the first lines. "imports": file -> the files that it imports. "unread": file -> why
        it was not scanned.
    """
    project, unread = _Project(forbidden), {}
    names = sorted(files)
    for place, name in enumerate(names):
        try:
            project.add(name, _parsed(files[name]))
        except SyntaxError as error:
            unread[place] = f"it is not Python (line {error.lineno or 1})"
        except (RecursionError, MemoryError):
            unread[place] = "it is nested too deep"
        except ValueError:  # zero bytes
            unread[place] = "it is not Python"
    for name in project.learn():
        unread[names.index(name)] = "a name in it stands for too many things"
    uses, imports = {}, {}
    for file in project.files:
        place = names.index(file.name)
        found = file.uses()
        uses[place] = {forbidden.index(name): sorted(lines)[:MOST_LINES] for name, lines in found.items()}
        imports[place] = sorted(map(names.index, file.imported & set(names) - {file.name}))
    return {"uses": uses, "imports": imports, "unread": unread}


def _parsed(content):
    """As an import would: bytes have a mark of their encoding, or a comment that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they would be among what the student's code printed
        return ast.parse(content.removeprefix("\ufeff") if isinstance(content, str) else content)


# ---------------------------------------------------------------------------------------------- the files together


class _Project:
    """All files of a submission. A path that begins with "." leads into them: ".helpers.F"."""

    def __init__(self, forbidden):
        self.forbidden, self.parts = forbidden, last_parts(forbidden)
        self.files, self._modules, self._tops = [], {}, set()

    def add(self, name, tree):
        file = _File(name, tree, self)
        self.files.append(file)
        self._modules[file.module] = file
        self._tops.add(file.module.split(".")[1])

    def learn(self):
        """Returns the names of files that tell too much."""
        known, tangled = -1, set()
        for _ in range(_ROUNDS):
            for file in self.files:
                try:
                    file.learn()
                except Tangled:
                    tangled.add(file.name)
            before, known = known, sum(len(paths) for file in self.files for paths in file.alias.values())
            if before == known:
                break
        return tangled

    def absolute(self, path):
        """The path as Python may read it: a package's, and a file's of the submission."""
        return {path, f".{path}"} if path.split(".")[0] in self._tops else {path}

    def expanded(self, paths, depth=0):
        """The paths, and what those of them stand for that lead to a name in another file."""
        found = set(paths)
        for path in [path for path in paths if path.startswith(".")] if depth < 4 else ():
            module = path
            while module and module not in self._modules:
                module = module.rpartition(".")[0]
            name, _, rest = path[len(module) + 1 :].partition(".")
            if module and name:
                inner = self.expanded(self._modules[module].named(name), depth + 1)
                found |= {f"{each}.{rest}" if rest else each for each in inner}
        return found

    def files_of(self, path):
        """Names of the files that an import of the path runs: packages on the way, and what sys.path may lead to."""
        parts = path.lstrip(".").split(".")
        begun = {".".join(parts[: count + 1]) for count in range(len(parts))}
        return {
            file.name
            for module, file in self._modules.items()
            if module[1:] in begun or any(module.endswith(f".{each}") for each in begun)
        }

    def use(self, path):
        """The forbidden name that a path uses, or None."""
        if path.startswith("torch.") and path.rsplit(".", 1)[-1] in self.parts:
            return self.parts[path.rsplit(".", 1)[-1]]
        return next((name for name in self.forbidden if path == name or path.startswith(name + ".")), None)


# ---------------------------------------------------------------------------------------------- one file


class _File:
    """Knows what names stand for (`F` -> "torch.nn.functional"), and what the file uses.

    Attributes:
        alias: name -> paths. imported: names of the files that it imports.
    """

    def __init__(self, name, tree, project):
        self.name, self._project = name, project
        parts = name.removesuffix(".py").split("/")
        self._package = parts[:-1]
        self.module = "." + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.alias, self.imported = {}, set()
        self._texts_of, self._stars, self._bound = {}, set(), set()
        self._known, self._depth = None, 0
        self._nodes = list(ast.walk(tree))
        self._nodes += [node for text in self._nodes_of_texts(self._nodes) for node in text]
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
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for item in node.names:
                    path = item.name if item.asname else item.name.split(".")[0]
                    self._stands_for(item.asname or path, self._project.absolute(path))
            elif isinstance(node, ast.ImportFrom):
                for base in self._bases(node):
                    for item in node.names:
                        if item.name == "*":
                            self._stars.add(base)
                        else:
                            self._stands_for(item.asname or item.name, {_join(base, item.name)})
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assign(target, node.value)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                self._assign(node.target, node.value)
            elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, (ast.List, ast.Tuple)):
                for item in node.iter.elts:
                    self._assign(node.target, item)
            elif isinstance(node, ast.arguments):
                named = [*node.posonlyargs, *node.args]
                self._defaults(named[len(named) - len(node.defaults) :], node.defaults)
                self._defaults(node.kwonlyargs, node.kw_defaults)

    def _defaults(self, arguments, values):
        for argument, value in zip(arguments, values, strict=True):
            self._assign(ast.Name(argument.arg), value)

    def _bases(self, node):
        """The paths of what `from … import` names."""
        if not node.level:
            return self._project.absolute(node.module)
        folder = self._package[: len(self._package) - node.level + 1]
        return {"." + ".".join([*folder, *filter(None, [node.module])])}

    def _assign(self, target, value):
        if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (ast.Tuple, ast.List)):
            for each, part in zip(target.elts, value.elts, strict=False):  # one of them may have a star
                self._assign(each, part)
        elif isinstance(target, (ast.Name, ast.Attribute)) and value is not None:  # self.F = F: by its last part
            name = target.id if isinstance(target, ast.Name) else target.attr
            self._stands_for(name, self._paths(value))
            texts = self._texts(value)
            if texts:
                self._texts_of.setdefault(name, set()).update(texts)

    def _stands_for(self, name, paths):
        if paths:
            known = self.alias.setdefault(name, set())
            known.update(paths)
            if len(known) > _MOST_PATHS:
                raise Tangled(self.name)

    # ------------------------------------------------------------------------------------------ what is forbidden

    def uses(self):
        """Forbidden name -> lines."""
        self._known = {}
        found = {}
        for node in reversed(self._nodes):  # what is inside comes first, so that no chain is followed twice
            for path in self._used_by(node):
                name = self._project.use(path)
                if name is not None:
                    found.setdefault(name, set()).add(getattr(node, "lineno", 1))
        return found

    def _used_by(self, node):
        if isinstance(node, ast.Import):
            paths = set().union(*(self._project.absolute(item.name) for item in node.names))
        elif isinstance(node, ast.ImportFrom):
            paths = {_join(base, item.name) for base in self._bases(node) for item in node.names}
            paths |= self._bases(node)
        elif isinstance(node, (ast.Attribute, ast.Call, ast.Subscript, ast.Name)):
            paths = self._paths(node)
            if not isinstance(node, ast.Call):
                return paths
        else:
            return ()
        self.imported |= set().union(*map(self._project.files_of, paths))
        return self._project.expanded(paths)

    # ------------------------------------------------------------------------------------------ what expressions are

    def _paths(self, node):
        """The dotted names that an expression may stand for: what starts with no import is the student's own."""
        if self._known is not None and node in self._known:
            return self._known[node]
        if self._depth > _DEEPEST:
            return set()
        self._depth += 1
        found = self._paths_of(node)
        self._depth -= 1
        if self._known is not None:
            self._known[node] = found
        return found

    def _paths_of(self, node):
        if isinstance(node, ast.Name):
            found = self.named(node.id)
            builtin = node.id in _BUILTINS and not found and node.id not in self._bound
            return {f"builtins.{node.id}"} if builtin else self._project.expanded(found)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._result(node)
        if isinstance(node, ast.Subscript):
            return self._item(node.value, node.slice)
        if isinstance(node, ast.NamedExpr):
            return self._paths(node.value)
        if isinstance(node, ast.IfExp):
            return self._paths(node.body) | self._paths(node.orelse)
        if isinstance(node, ast.BoolOp):
            return set().union(*map(self._paths, node.values))
        return set()

    def _attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            return self._project.expanded(self.alias.get(node.attr, set()))
        return self._join(self._paths(node.value), {node.attr})

    def _join(self, paths, names):
        return self._project.expanded({_join(path, name) for path in paths for name in names})

    def _item(self, container, key):
        """`vars(F)["…"]`, `F.__dict__["…"]`, `sys.modules["…"]`, `globals()["…"]`."""
        names = self._texts(key)
        if "sys.modules" in self._paths(container):
            return names
        if isinstance(container, ast.Call) and self._paths(container.func) & {"builtins.globals", "builtins.locals"}:
            return self._project.expanded(set().union(*map(self.named, names)))
        return self._join(self._namespace(container), names)

    def _namespace(self, node):
        """The modules in `vars(F)` or `F.__dict__`."""
        if isinstance(node, ast.Call) and node.args and "builtins.vars" in self._paths(node.func):
            return self._paths(node.args[0])
        return self._paths(node.value) if isinstance(node, ast.Attribute) and node.attr == "__dict__" else set()

    def _result(self, node):
        """What a call gives, where it is one that looks up a name."""
        function, arguments = self._paths(node.func), node.args
        if not arguments:
            return set()
        if function & _GETATTR and len(arguments) > 1:
            return self._join(self._paths(arguments[0]), self._texts(arguments[1]))
        if function & _GETTER:
            return {f"@{text}" for argument in arguments for text in self._texts(argument)}
        if any(path.startswith("@") for path in function):
            return self._join(self._paths(arguments[0]), {path[1:] for path in function if path.startswith("@")})
        if function & _IMPORT:
            return self._imported_by(arguments)
        if function & _LOCATE:
            return {text.replace(":", ".") for text in self._texts(arguments[0])}
        if "functools.reduce" in function and len(arguments) == 3 and self._paths(arguments[0]) & _GETATTR:
            return self._join(self._paths(arguments[2]), self._parts(arguments[1]))
        if isinstance(node.func, ast.Attribute):
            return self._result_of_a_method(node.func, arguments)
        return set()

    def _imported_by(self, arguments):
        package = self._texts(arguments[1]) if len(arguments) > 1 else set()
        found = set()
        for text in self._texts(arguments[0]):
            relative = text.startswith(".")
            found |= {name + text for name in package} if relative else {text, text.split(".")[0]}
        return set().union(*map(self._project.absolute, found))

    def _result_of_a_method(self, method, arguments):
        if method.attr == "__getattribute__":
            owner = arguments[0] if len(arguments) > 1 else method.value
            return self._join(self._paths(owner), self._texts(arguments[-1]))
        return self._item(method.value, arguments[0]) if method.attr in _OF_A_DICT else set()

    def _parts(self, node):
        """ "a.b" of ["a", "b"] and of "a.b".split(".")."""
        if isinstance(node, (ast.List, ast.Tuple)):
            return {".".join(texts) for texts in _choices([self._texts(item) for item in node.elts])}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
            return self._texts(node.func.value)
        return set()

    def _texts(self, node, depth=0):
        """The strings that an expression may be, if they are known without running it: "a" + "b" too."""
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str) else set()
        if isinstance(node, ast.Name):
            return self._texts_of.get(node.id, set())
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and depth < _DEEPEST:
            sides = [self._texts(node.left, depth + 1), self._texts(node.right, depth + 1)]
            return {"".join(texts) for texts in _choices(sides)}
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
            return {"".join(texts) for texts in _choices([self._texts(part, depth + 1) for part in parts])}
        return set()

    # ------------------------------------------------------------------------------------------ texts that are run

    def _nodes_of_texts(self, nodes):
        """The nodes of constant texts that exec and its like run, at the line of the call."""
        for node in nodes:
            name = node.func.attr if isinstance(getattr(node, "func", None), ast.Attribute) else None
            name = node.func.id if isinstance(getattr(node, "func", None), ast.Name) else name
            if name not in {path.rsplit(".", 1)[-1] for path in _RUNS_TEXT} or not node.args:
                continue
            for text in self._texts(node.args[0]):
                try:
                    inner = list(ast.walk(_parsed(text)))
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    continue
                for each in inner:
                    each.lineno = node.lineno
                yield inner


def _join(base, name):
    return f"{base}{name}" if base == "." else f"{base}.{name}"


def _choices(sets):
    """Each way to take one of every set; none where there are too many."""
    count = 1
    for each in sets:
        count *= len(each)
    return product(*sets) if 0 < count <= _MOST_TEXTS else ()

"""Finds forbidden names in source text. Runs inside the box, before any student code does; the standard library only.

A name is forbidden with all below it: "transformers" covers `transformers.GPT2Model`. torch has its functions under several
names, and operators that compute the same (RELATIVES): each of them is a use. Names are followed through imports, star
imports, aliases, assignments of modules, constant texts (getattr, attrgetter, import_module, `vars(F)[…]`, exec), and from
one file of the submission to another. A comment, a string or a function of one's own with the same name is not a use.

A name can stand for several things, one in each scope: it is a use where one of them is. What is put together at run time
cannot be followed; tripwires.py notes the call.
"""

import ast

from .reading import Names, Tangled, join, parsed

MOST_LINES = 10  # told of one name in one file
_RUNS_TEXT = {"exec", "eval", "compile", "CompilationUnit"}
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


def last_parts(forbidden) -> dict:
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
            project.add(name, parsed(files[name]))
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


class _File(Names):
    """Attributes: imported: names of the files that it imports."""

    def __init__(self, name, tree, project):
        super().__init__(name, tree, project)
        self.imported = set()
        self.nodes += [node for text in self._nodes_of_texts() for node in text]

    def uses(self):
        """Forbidden name -> lines."""
        self.known = {}
        found: dict[str, set] = {}
        for node in reversed(self.nodes):  # what is inside comes first, so that no chain is followed twice
            for path in self._used_by(node):
                name = self.project.use(path)
                if name is not None:
                    found.setdefault(name, set()).add(getattr(node, "lineno", 1))
        return found

    def _used_by(self, node):
        if isinstance(node, ast.Import):
            paths = set().union(*(self.project.absolute(item.name) for item in node.names))
        elif isinstance(node, ast.ImportFrom):
            paths = {join(base, item.name) for base in self.bases(node) for item in node.names}
            paths |= self.bases(node)
        elif isinstance(node, (ast.Attribute, ast.Call, ast.Subscript, ast.Name)):
            paths = self.paths(node)
            if not isinstance(node, ast.Call):
                return paths
        else:
            return ()
        self.imported |= set().union(*map(self.project.files_of, paths))
        return self.project.expanded(paths)

    def _nodes_of_texts(self):
        """The nodes of constant texts that exec and its like run, at the line of the call."""
        for node in self.nodes:
            name = node.func.attr if isinstance(getattr(node, "func", None), ast.Attribute) else None
            name = node.func.id if isinstance(getattr(node, "func", None), ast.Name) else name
            if name not in _RUNS_TEXT or not node.args:
                continue
            for text in self.texts(node.args[0]):
                try:
                    inner = list(ast.walk(parsed(text)))
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    continue
                for each in inner:
                    vars(each)["lineno"] = node.lineno
                yield inner
